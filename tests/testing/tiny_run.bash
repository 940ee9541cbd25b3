# For test scripts: a training small enough to be interrupted and repeated. Sourced with PHOTON (the program) set.

work=$(mktemp -d "${TMPDIR:-/tmp}/photon-test.XXXXXX")
num_checks=0
num_failures=0

say() { echo "[$(date -u +%H:%M:%S)] $*"; }
skip() { # reason: exit code 77 is ctest's "skipped"
  echo "SKIPPED: $*"
  rm -rf "$work"
  exit 77
}
pass() {
  num_checks=$((num_checks + 1))
  say "ok: $*"
}
fail() {
  num_checks=$((num_checks + 1))
  num_failures=$((num_failures + 1))
  say "FAILED: $*"
}
check() { # description, command...
  local what=$1
  shift
  if "$@"; then pass "$what"; else fail "$what"; fi
}
finish() { # the end of a script
  say "$num_checks checks, $num_failures failed"
  if [[ $num_checks == 0 ]]; then say "nothing was checked"; fi
  [[ $num_failures == 0 && $num_checks -gt 0 ]]
  exit
}

# wait_for <seconds> <description> <command...>: polls; on expiry a failed check and status 1.
wait_for() {
  local last=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if ((SECONDS >= last)); then
      fail "waited in vain: $what"
      return 1
    fi
    sleep 0.05
  done
}

# A folder with data and tiny.yaml: a two-level byte model whose step takes some milliseconds.
make_tiny_run() {
  local i
  for ((i = 0; i < 700; ++i)); do echo "verse $i: light falls on the grey stone, and water sings $((i * 7919 % 1000)) times"; done >"$work/text.txt"
  "$PHOTON" prepare --tokenizer byte --output "$work/data" --val-fraction 0.1 "$work/text.txt" >/dev/null 2>"$work/prepare.log" ||
    { cat "$work/prepare.log"; fail "photon prepare"; finish; }
  cat >"$work/tiny.yaml" <<TEXT
model:
  model_type: photon
  vocab_size: 259
  dim: 32
  levels:
  - {dim: 32, chunk: 2, prefix: 1, encoder: {layers: 1, heads: 2, ffn: 64}, decoder: {layers: 1, heads: 2, ffn: 64}}
  - {dim: 48, chunk: 2, prefix: 2, encoder: {layers: 1, heads: 2, ffn: 96}, decoder: {layers: 1, heads: 2, ffn: 64}}
data: {train: $work/data/train.h5, val: $work/data/val.h5}
train: {steps: 120, batch_size: 8, sequence_length: 128, learning_rate: 0.003, checkpoint_every: 20, eval_every: 60, eval_sequences: 8, seed: 7}
parallel: {microbatch_size: 2}
TEXT
}

num_steps() { wc -l 2>/dev/null <"$1/metrics.jsonl" || echo 0; } # run folder
has_steps() { [[ $(num_steps "$1") -ge $2 ]]; }                  # run folder, steps

# The metrics without what differs from run to run: times, and what the ranks measured.
metrics_of() {
  sed -E 's/"(ranks|rank_[a-z_]*|slowest[a-z_]*)":(\[[^]]*\]|\{[^}]*\}|[^,}]*),?//g; s/"[a-z_]*(seconds|tokens_per_second|_time)":[^,}]*,?//g' "$1/metrics.jsonl"
}
same_runs() { # the same metrics and weights, to the bit
  local a=$1 b=$2
  [[ -s $a/metrics.jsonl && -s $b/metrics.jsonl ]] || { say "$a or $b has no metrics"; return 1; }
  diff <(metrics_of "$a") <(metrics_of "$b") >"$work/diff" || { say "the metrics of $a and $b differ:"; head -n 6 "$work/diff"; return 1; }
  cmp "$a/model/model.safetensors" "$b/model/model.safetensors" || { say "the weights of $a and $b differ"; return 1; }
}
