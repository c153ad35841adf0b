"""Tasks: what belongs together for scripts, training and tables. ``TASKS`` names them all."""

from lib.tasks.scene_flow import STUDENTS, TASKS, Task, flow_losses, open_flow_pairs, refresh_flow

__all__ = ["STUDENTS", "TASKS", "Task", "flow_losses", "open_flow_pairs", "refresh_flow"]
