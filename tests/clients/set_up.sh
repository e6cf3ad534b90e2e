#!/usr/bin/env bash
# Installs what tests/clients needs beside Python: the npm packages, into tests/clients/programs/node/node_modules, and,
# as root on Debian and Ubuntu, the libraries for C and Go. Quick when everything is there. What can't be had is named,
# and the tests skip its suite by name.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
missing() { echo "not installed: $*" >&2; }

node="$here/programs/node"
if cmp -s "$node/package-lock.json" "$node/node_modules/.installed"; then
  :
elif ! command -v npm >/dev/null; then
  missing "the npm packages; install Node.js 20 or newer with npm"
elif (
  cd "$node" &&
    npm ci --prefer-offline --fetch-retries=1 --fetch-timeout=20000 --no-audit --no-fund --loglevel=error >/dev/null
); then
  cp "$node/package-lock.json" "$node/node_modules/.installed"
else
  missing "the npm packages; see above"
fi

packages=(gcc libc6-dev libnats-dev golang-go golang-github-nats-io-go-nats-dev)
if command -v dpkg-query >/dev/null; then
  wanted=()
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || wanted+=("$package")
  done
  impatient=(-qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10)
  install() {
    DEBIAN_FRONTEND=noninteractive apt-get "${impatient[@]}" install -y --no-install-recommends "$@" >/dev/null
  }
  if [ ${#wanted[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
      missing "${wanted[*]}; as root: apt-get install --no-install-recommends ${wanted[*]}"
    elif ! install "${wanted[@]}" 2>/dev/null && ! { apt-get "${impatient[@]}" update && install "${wanted[@]}"; }; then
      missing "${wanted[*]}; see above"
    fi
  fi
else
  echo "for C and Go: install libnats and Go's nats.go where gcc and GOPATH=/usr/share/gocode find them" >&2
fi
exit 0
