# What the batch scripts share: run a photon command in a job, hand on Slurm's wish to stop, and put the job back into the queue.
# Sourced with PHOTON_HOME set.

if [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo "photon: no Slurm job (this is a batch script) submit it with sbatch, or use launch/photon-run" >&2
  exit 2
fi
if [[ -n ${PHOTON_SETUP:-} ]]; then
  # shellcheck source=/dev/null
  source "$PHOTON_SETUP" || { echo "photon: $PHOTON_SETUP failed (PHOTON_SETUP names it) correct it" >&2; exit 2; }
fi

on_signal() {
  caught=1
  echo "== SIG$1: asking photon to save" >&2
  [[ -n $child ]] && kill -s "$1" "$child" 2>/dev/null
}

# run_job <photon's command and arguments>: never returns.
run_job() {
  local restarts=${SLURM_RESTART_COUNT:-0} options=() state status signal
  read -ra options <<<"${PHOTON_RUN_OPTIONS:-}"
  echo "== $(date -u +%Y-%m-%dT%H:%M:%SZ) job $SLURM_JOB_ID${SLURM_ARRAY_TASK_ID:+ (task $SLURM_ARRAY_TASK_ID)}," \
    "start $((restarts + 1)), on ${SLURM_JOB_NODELIST:-one node}"
  child="" caught=0
  for signal in TERM USR1; do trap "on_signal $signal" "$signal"; done
  "$PHOTON_HOME/launch/photon-run" "${options[@]}" photon "$@" &
  child=$!
  while true; do # a signal interrupts `wait`
    caught=0
    wait "$child"
    status=$?
    [[ $caught == 1 ]] || break
  done
  [[ $status == 75 ]] || exit "$status"

  # Saved and stopped. Whoever ended the job decides what comes next: scancel ends it, a preemption requeues it. Only a job that still
  # counts as running (it was told to stop before its time was up) puts itself back.
  state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format=%T 2>/dev/null | head -n 1)
  if [[ $state != RUNNING ]]; then
    echo "== saved; Slurm has job $SLURM_JOB_ID as ${state:-ended} and decides about it"
  elif ((restarts >= ${PHOTON_MAX_REQUEUES:-1000})); then
    echo "== saved; not requeued, because this was start $((restarts + 1)) (PHOTON_MAX_REQUEUES)"
  elif scontrol requeue "$SLURM_JOB_ID"; then
    echo "== saved; job $SLURM_JOB_ID is requeued"
    sleep 60 # Slurm ends this script; until then it must not seem to have failed
  else
    echo "== saved, but scontrol requeue failed (its message is above); submit the same command again to go on" >&2
  fi
  exit 75
}
