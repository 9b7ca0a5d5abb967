#!/bin/sh
# Makes Python environments of their own for the clients and servers whose pins clash with Madang's:
# DIR/environments/NAME-HASH for each environments/NAME.txt (or only for the names given), where HASH
# is of the file, so that a changed list makes a new one. pip checks what it downloads, and `pip check`
# what was installed. Does nothing for those that are there already.
#
# Usage: environments.sh DIR [NAME...]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/environments
dir=${1:?usage: environments.sh DIR [NAME...]}/environments
shift
[ $# -gt 0 ] || set -- $(cd "$here" && ls | sed -n 's/\.txt$//p')

mkdir -p "$dir"
for name in "$@"; do
    hash=$(sha256sum "$here/$name.txt" | cut -c1-12)
    target=$dir/$name-$hash
    if [ ! -e "$target/.complete" ]; then
        # Scripts of an environment hold its path, so it can't be made elsewhere and renamed.
        exec 9>"$dir/$name.lock"
        flock 9
        if [ ! -e "$target/.complete" ]; then
            rm -rf "$target"
            "${PYTHON:-python3}" -m venv "$target"
            "$target/bin/pip" install --quiet --disable-pip-version-check -r "$here/$name.txt" >&2
            "$target/bin/pip" check --disable-pip-version-check >&2
            touch "$target/.complete"
        fi
        exec 9>&-
    fi
    echo "$target"
done
