#!/bin/sh
# Starts a command in the container. checkpoints/ and runs/ are links into /data: makes the folders they point to.
mkdir -p /data/checkpoints /data/runs \
  || echo 'warning: checkpoints/ and runs/ cannot be kept: mount a folder on /data that you may write, and add' \
          '--user "$(id -u):$(id -g)"' >&2
exec "$@"
