#!/usr/bin/env bash
# The twin of PointDistiller's table 1 on synthetic streets: students of a quarter and a sixteenth of the multiply-adds,
# from scratch and with PointDistiller in both of its readings (docs/methods.md). Three seeds each.
#
#   bash experiments/lidar/pointdistiller.sh                                    # one run after another
#   LIST=1 bash experiments/lidar/pointdistiller.sh | python sweep.py --jobs 2  # two at a time
#   python experiments/make_tables.py lidar/pointdistiller
source "$(dirname "$0")/synthetic_setting.sh"

for seed in $SEEDS; do
  for size in small-4x small-16x; do
    for methods in output:0 output:0,pointdistiller:1 output:0,pointdistiller+mode=reference+kept=2048:1; do
      student "$size" "$methods" "$seed" "${STUDENT[@]}"
    done
  done
done
