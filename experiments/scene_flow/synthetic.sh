#!/usr/bin/env bash
# The reports' question on data that anyone has: how much does a teacher trained on a big set (512 synthetic-things
# scenes) help a student that has a small one (24 synthetic-drive scenes), for each gamma? Three seeds each.
#
#   bash experiments/synthetic.sh                                   # one run after another
#   LIST=1 bash experiments/synthetic.sh | python sweep.py --jobs 2 # two at a time
#   python experiments/make_tables.py synthetic
source "$(dirname "$0")/synthetic_setting.sh"

score teacher-on-things "$RUNS/teacher/best.pt" "${THINGS[@]}"
baselines -on-things "${THINGS[@]}"
baselines "" "${DRIVE[@]}"
for seed in $SEEDS; do
  for gamma in 1 0.7 0.5 0.3 0.1 0; do
    student half "output:$gamma" "$seed" "${STUDENT[@]}"
  done
done
