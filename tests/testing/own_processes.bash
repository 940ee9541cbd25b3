# For test scripts that start processes which start others: finds and ends them again, also those that outlived their parents. They carry
# PHOTON_TEST_WORK=<the script's folder> in their environment. Sourced after tiny_run.bash; takes over the EXIT trap. With keep=1 the folder stays.

export PHOTON_TEST_WORK=$work
own_processes() {
  local folder
  for folder in /proc/[0-9]*; do
    [[ ${folder#/proc/} == "$$" || ${folder#/proc/} == "$BASHPID" ]] && continue
    grep -qsz "^PHOTON_TEST_WORK=$PHOTON_TEST_WORK\$" "$folder/environ" && printf '%s\n' "${folder#/proc/}"
  done
}
end_own_processes() {
  local signal pid
  for signal in TERM KILL KILL; do
    for pid in $(own_processes); do kill -s "$signal" "$pid" 2>/dev/null; done
    [[ -z $(own_processes) ]] && return
    sleep 1
  done
  [[ -z $(own_processes) ]] || echo "still there: $(own_processes | tr '\n' ' ')"
}
before_end() { :; } # a script may define what it does first
clean_up() {
  local status=$? log
  trap - EXIT
  trap '' TERM INT HUP # ctest's limit must not leave daemons behind
  if [[ $status != 0 && $status != 77 ]]; then
    for log in "$work"/*.log; do
      [[ -s $log ]] && { echo "---- $log"; tail -n 25 "$log"; }
    done
  fi
  before_end
  end_own_processes 2>/dev/null
  if [[ ${keep:-0} == 1 ]]; then echo "kept: $work"; else rm -rf "$work"; fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 1' TERM INT HUP
