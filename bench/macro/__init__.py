"""Whole servers under load: speed, crashes, memory."""
