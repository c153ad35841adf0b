"""Data sets, one folder a task, and what prepares them."""
