#!/bin/sh
# Runs a command as root, by sudo where that is needed and there; says what to do where it cannot.
if [ "$(id -u)" = 0 ]; then exec "$@"; fi
if command -v sudo >/dev/null; then exec sudo "$@"; fi
echo "run this as root, then make again: $*" >&2
exit 2
