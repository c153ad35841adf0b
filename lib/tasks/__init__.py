"""The tasks of this project. ``TASKS`` names them all; lib/tasks/task.py says what a task is."""

from lib.tasks.lidar_detection import LIDAR_DETECTION
from lib.tasks.scene_flow import SCENE_FLOW
from lib.tasks.task import DEFAULT_TASK, Metric, Record, Task

__all__ = ["DEFAULT_TASK", "TASKS", "Metric", "Record", "Task", "task_of"]

TASKS = {task.name: task for task in (SCENE_FLOW, LIDAR_DETECTION)}


def task_of(network: str) -> Task | None:
    """The task of a network by its name in ``models.MODELS``; None for a name of none."""
    return next((task for task in TASKS.values() if network in task.networks.values()), None)
