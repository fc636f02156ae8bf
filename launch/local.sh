#!/usr/bin/env bash
# A run of several processes on this machine. The same command resumes it.
#
#   launch/local.sh 2 --config=digits --workdir=runs/x
#
# Each process gets its share of the CPU cores; of accelerators that they all see, each takes one. SIGTERM and SIGINT are
# passed on. When one process fails, the others end too. The exit code is that of the first that failed, else 0.
#
# To edit, or to set in the environment:
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
GRACE=${GRACE:-20}                       # seconds in which the others notice by themselves that one has failed

set -u
given=${PYTHON-}
PYTHON=${given:-$HERE/.venv/bin/python} # a Python that has jtrain
if [ -z "$given" ] && [ ! -x "$PYTHON" ]; then PYTHON=python3; fi
if ! "$PYTHON" -c "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('jax', 'absl', 'jtrain'))))" 2>/dev/null; then
  echo "launch/local.sh: $PYTHON has no jtrain; run make train once, or set PYTHON" >&2
  exit 2
fi
processes=${1-}
if ! [[ $processes =~ ^[1-9][0-9]{0,3}$ ]]; then
  echo "launch/local.sh: '$processes' is not a number of processes" >&2
  echo "usage: launch/local.sh PROCESSES [VERB] --config=CONFIG --workdir=DIR [--config.KEY=VALUE …]" >&2
  exit 2
fi
shift

# A free port with a free one after it, then the cores of each process.
mapfile -t plan < <("$PYTHON" - "$processes" <<'PY'
import os, socket, sys
count, cores = int(sys.argv[1]), sorted(os.sched_getaffinity(0))
while True:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        try:
            socket.create_server(("127.0.0.1", port + 1)).close()
            break
        except (OSError, OverflowError):
            pass
print(port)
for i in range(count):
    share = cores[i * len(cores) // count : (i + 1) * len(cores) // count] or [cores[i % len(cores)]]
    print(",".join(map(str, share)))
PY
)
if [ "${#plan[@]}" -ne $((processes + 1)) ]; then
  echo "launch/local.sh: $PYTHON does not run; set PYTHON" >&2
  exit 2
fi

export JTRAIN_COORDINATOR=127.0.0.1:${plan[0]} JTRAIN_PROCESSES=$processes
# Bash tells of killed children on its own standard error, which is kept apart from theirs.
exec 3>&2 2>/dev/null
running=()
for ((i = 0; i < processes; i++)); do
  JTRAIN_PROCESS=$i taskset -c "${plan[i + 1]}" "$PYTHON" -m jtrain.main "$@" </dev/null 2>&3 3>&- &
  running+=($!)
done
pass_on() { kill "-$1" "${running[@]}" 2>/dev/null; }
ending=""
trap 'ending=asked; pass_on TERM' TERM
trap 'ending=asked; pass_on INT' INT

code=0
failed_at=-1
while [ "${#running[@]}" -gt 0 ]; do
  # Not `wait -n`: it ends for a trapped signal as well, and what it says does not tell the two apart.
  sleep 0.2
  left=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      left+=("$pid")
      continue
    fi
    wait "$pid" 2>/dev/null # no "Killed"
    status=$?
    [ "$status" -ne 0 ] || continue
    [ "$failed_at" -ge 0 ] || failed_at=$SECONDS
    # 4 is what the others say of one that is lost: its own code, which may be seen later, is the cause.
    if [[ $code == [04] && $ending =~ ^(asked)?$ ]]; then code=$status; fi
  done
  running=("${left[@]+"${left[@]}"}")
  # Who was asked to save and end has all the time that it takes.
  if [ "${#running[@]}" -gt 0 ] && [ "$failed_at" -ge 0 ] && [ "$ending" != asked ]; then
    waited=$((SECONDS - failed_at))
    if [ -z "$ending" ] && [ "$waited" -ge "$GRACE" ]; then
      ending=terminated
      pass_on TERM
    elif [ "$ending" = terminated ] && [ "$waited" -ge $((2 * GRACE)) ]; then
      ending=killed
      pass_on KILL
    fi
  fi
done
exit "$code"
