"""Measuring on another machine over ssh."""
