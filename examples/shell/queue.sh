#!/usr/bin/env bash
# A queue for shell scripts: two workers take tasks from it, each task once, the urgent one first.
set -euo pipefail

field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

made=$(mq9 create --public example.jobs --ttl 10m --json)
mq9 send example.jobs "compress the logs" >/dev/null
mq9 send example.jobs "rotate the keys" --priority urgent >/dev/null
mq9 send example.jobs "warm the cache" >/dev/null
echo "three jobs wait"

# One job at a time. When none is left the exit code of `mq9 inbox` is 1.
take() { mq9 inbox example.jobs --group workers --limit 1 --json | field payload; }
echo "ada: $(take)"
while job=$(mq9 inbox example.jobs --group workers --limit 1 --json); do
  echo "bob: $(field payload <<<"$job")"
done
echo "no job is left"

# The owner address ends a public mailbox. It is a secret: through a pipe, not as an argument that others can see.
field owner <<<"$made" | mq9 drop - >/dev/null
