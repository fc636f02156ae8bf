#!/usr/bin/env bash
# A run on all hosts of a Cloud TPU, from a machine that has gcloud:
#
#   TPU=my-pod ZONE=us-central2-b launch/tpu_vm.sh --config=cifar --workdir=/mnt/shared/runs/x
#   TPU=my-pod ZONE=us-central2-b launch/tpu_vm.sh stop       # the run saves and ends
#
# The first command resumes it as well. Once, to install (jax[tpu] brings libtpu), on all hosts alike:
#
#   gcloud compute tpus tpu-vm ssh my-pod --zone=… --worker=all --command="git clone … jtrain && cd jtrain &&
#     python3 -m venv .venv && .venv/bin/pip install -e . 'jax[tpu]'"
#
# To edit, or to set in the environment:
TPU=${TPU:?is the name of the TPU}
ZONE=${ZONE:?is its zone, such as us-central2-b}
FOLDER=${FOLDER:-jtrain}           # the checkout on the hosts, from the home folder
PYTHON=${PYTHON:-.venv/bin/python} # in it

set -euo pipefail
PIDFILE=.jtrain-tpu.pid # in the home folder of each host
if [ "$*" = stop ]; then
  # Only what is still a run of jtrain: the number may have come to be another program's.
  command="pid=\$(cat $PIDFILE) && grep -qa jtrain.main /proc/\$pid/cmdline && kill -TERM \$pid"
else
  case " $*" in
    *" --workdir="*) ;;
    *)
      echo "tpu_vm.sh: --workdir: is missing; give a folder that all hosts of the TPU share, such as a mounted file store" >&2
      exit 2
      ;;
  esac
  printf -v words ' %q' "$@"
  printf -v command "echo \$\$ >$PIDFILE && cd %q && exec %q -m jtrain.main%s" "$FOLDER" "$PYTHON" "$words"
fi
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
