"""Turns an architecture, a recipe and labelled images into weights and an accuracy."""
