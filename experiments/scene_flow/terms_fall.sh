#!/usr/bin/env bash
# Every method's own term on real frames: 200 steps of the smallest student on the FlyingThings3D training pairs of DATA,
# 256 points. A run has one method beside plain output distillation (weights as in methods.sh); the two methods that need
# no teacher stand alone. Config and log of each run go to a file of results/scene_flow/terms. From these files
# tests/distill/test_terms_fall.py reads that each term falls; of self and online it is the whole loss.
# Stopped runs go on, finished ones are skipped.
#
#   TEACHER=checkpoint DATA=folder-with-FlyingThings3D_subset_processed_35m bash experiments/scene_flow/terms_fall.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

TEACHER=${TEACHER:-synthetic}
DATA=${DATA:-../shared/data}
RUNS=${RUNS:-runs/terms}
RESULTS=${RESULTS:-results/scene_flow/terms}
mkdir -p "$RESULTS"

for methods in \
  output:0.3 \
  output:0.3,hint:3 \
  output:0.3,multiscale:8 \
  output:0.3,pkd:0.5 \
  output:0.3,attention:30 \
  output:0.3,similarity:60 \
  output:0.3,semckd:30 \
  output:0.3,rkd:2 \
  output:0.3,pointdistiller:2 \
  self:1 \
  online+peer=quarter; do
  last=${methods##*,}
  name=${last%%[:+]*}
  python train_student.py --teacher "$TEACHER" --distill "$methods" --student tiny \
    --dataset ft3d --subset full --data-root "$DATA" --num-points 256 --batch-size 4 --steps 200 --eval-every 6 \
    --workers 0 --seed 0 --resume --out "$RUNS/$name"
  python experiments/join_run.py "$RUNS/$name" "$RESULTS/$name.json"
done
