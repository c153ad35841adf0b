#!/usr/bin/env bash
# The twin of PointDistiller's tables 1 and 5 on synthetic streets: students of a quarter and a sixteenth of the
# multiply-adds, alone, with PointDistiller in both of its readings, and with its parts alone. Three seeds each.
#
#   bash experiments/lidar/pointdistiller.sh                                    # one run after another
#   LIST=1 bash experiments/lidar/pointdistiller.sh | python sweep.py --jobs 2  # two at a time
#   python experiments/make_tables.py lidar/pointdistiller
source "$(dirname "$0")/synthetic_setting.sh"

for size in small-4x small-16x; do
  for seed in $SEEDS; do
    for methods in \
      output:0 \
      output:0,pointdistiller+kept=512+neighbours=32+temperature=8:1 \
      output:0,pointdistiller+mode=reference+kept=2048+neighbours=32:1; do
      student "$size" "$methods" "$seed" "${STUDENT[@]}"
    done
  done
done
