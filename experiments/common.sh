# What the experiments share; they source it. Each run is one command line: train (a finished run is skipped, a broken
# one resumed), score (skipped where the score is newer than best.pt), add the run's config and log to the score's file.
#
# A script carries its lines out one after another. Started twice, it shares the work: a run under way is left to the
# process that holds its lock. With LIST=1 it prints the lines instead, for sweep.py; an empty line stands where all the
# lines before it must be finished.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UNDER_WAY=75 # the status of a line whose run another process holds

words() { printf '%q ' "$@"; }

# line NAME TEXT: carries a command line out, or prints it
line() {
  local text status=0
  text="mkdir -p $(words "$RUNS" "$RESULTS")&& $2"
  if [ -n "${LIST:-}" ]; then
    echo "$text"
    return
  fi
  echo "== $1"
  bash -c "$text" || status=$?
  if [ "$status" = "$UNDER_WAY" ]; then
    echo "under way in another process: left to it"
  elif [ "$status" != 0 ]; then
    exit "$status"
  fi
}

# stage: what follows needs what came before
stage() { if [ -n "${LIST:-}" ]; then echo; fi; }

# scored JSON FILE FLAGS...: the text that scores the checkpoint FILE
scored() {
  local json=$1 checkpoint=$2
  shift 2
  echo "{ [ $(words "$json")-nt $(words "$checkpoint")] ||" \
    "$(words python evaluate.py --checkpoint "$checkpoint" "$@" --json "$json"); }"
}

# run NAME COMMAND...: trains into RUNS/NAME, scores as SCORE says. WAIT=1: waits for a run under way elsewhere, because
# what follows needs it.
run() {
  local name=$1 out=$RUNS/$1 lock=(flock -n -E "$UNDER_WAY" -F)
  shift
  if [ -n "${WAIT:-}" ]; then lock=(flock -F); fi
  line "$name" "$(words "${lock[@]}" "$out.lock" "$@" --resume --out "$out")&& $(
    scored "$RESULTS/$name.json" "$out/best.pt" "${SCORE[@]}") && $(
    words python experiments/join_run.py "$out" "$RESULTS/$name.json")"
}

# score NAME CHECKPOINT FLAGS...: scores a network once more, on other data
score() {
  local name=$1 checkpoint=$2
  shift 2
  line "$name" "$(scored "$RESULTS/$name.json" "$checkpoint" "$@")"
}

# baselines SUFFIX FLAGS...: RESULTS/zeroSUFFIX.json and RESULTS/nearestSUFFIX.json
baselines() {
  local suffix=$1 baseline json
  shift
  for baseline in zero nearest; do
    json=$RESULTS/$baseline$suffix.json
    line "$baseline$suffix" "{ [ -e $(words "$json")] || $(
      words python evaluate.py --baseline "$baseline" "$@" --json "$json"); }"
  done
}

# student SIZE METHODS SEED FLAGS...: the run student-SIZE-METHODS-seedSEED, METHODS as for --distill. GROUP: a word that
# tells students of other data or another teacher apart.
student() {
  local size=$1 methods=$2 seed=$3 text
  shift 3
  text=${methods//:/}
  run "student-${GROUP:+$GROUP-}$size-${text//,/+}-seed$seed" \
    python train_student.py --student "$size" --distill "$methods" --seed "$seed" "$@"
}
