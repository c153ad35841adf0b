# The setting of the LiDAR experiments on synthetic streets: the small PointPillars, a teacher that sees 400 frames and
# students that see 100. Sourced by the other scripts. Variables: SEEDS, STEPS (of a student), TEACHER_STEPS.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

SEEDS=${SEEDS:-0 1 2}
RUNS=${RUNS:-runs/lidar/synthetic}
RESULTS=${RESULTS:-results/lidar/synthetic}
STREET=(--task lidar-detection --dataset synthetic-lidar)
SCORE=(--dataset synthetic-lidar)
STUDENT=("${STREET[@]}" --teacher "$RUNS/teacher/best.pt" --num-scenes 100 --steps "${STEPS:-600}" --workers 1)

WAIT=1 run teacher python train_teacher.py "${STREET[@]}" \
  --steps "${TEACHER_STEPS:-1500}" --workers 1
stage
