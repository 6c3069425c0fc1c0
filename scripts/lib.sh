# What scripts/setup, scripts/up and scripts/test share; sourced from the project's root, never run by itself.
# shellcheck shell=bash
# Written for bash 3.2 too, which is what macOS has: no associative arrays, no empty array under `set -u`.

# Everything a run leaves behind: data of the private Redis, stored images, the development secret, logs. Not in git.
ONEIRO_VAR="${ONEIRO_VAR:-$PWD/var}"
mkdir -p "$ONEIRO_VAR"
ONEIRO_VAR=$(cd "$ONEIRO_VAR" && pwd)
export ONEIRO_VAR

say() { printf '%s: %s\n' "$(basename "$0")" "$*"; }

# die MESSAGE [EXIT_CODE]
die() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  exit "${2:-1}"
}

have() { command -v "$1" >/dev/null 2>&1; }

# at_least VERSION MINIMUM: compares the first two numbers, which is all that our minimums have.
at_least() {
  awk -v have="$1" -v least="$2" 'BEGIN { split(have, h, "."); split(least, l, "."); exit !(h[1] > l[1] || (h[1] == l[1] && h[2] + 0 >= l[2] + 0)) }'
}

# The comment at the top of a script is its help text.
print_header() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

redis_program() {
  if have redis-server; then echo redis-server; elif have valkey-server; then echo valkey-server; else die "missing: redis-server (run scripts/setup)"; fi
}

# Foreman from scripts/setup's own gem folder, where the system brings none.
if ! have foreman && [ -x "$ONEIRO_VAR/gems/bin/foreman" ]; then
  export PATH="$ONEIRO_VAR/gems/bin:$PATH" GEM_PATH="$ONEIRO_VAR/gems"
fi

# built_in PROFILE: the folder of what Cargo builds with a profile.
built_in() {
  case "$1" in dev) set -- debug ;; esac
  echo "${CARGO_TARGET_DIR:-target}/$1"
}

# The browser that the page test drives; fails where there is none.
browser() {
  local program
  for program in "${CHROME:-}" chromium chromium-browser google-chrome google-chrome-stable "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" "/Applications/Chromium.app/Contents/MacOS/Chromium"; do
    if [ -n "$program" ] && have "$program"; then
      command -v "$program"
      return 0
    fi
  done
  return 1
}
