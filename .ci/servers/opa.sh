#!/bin/sh
# Builds Open Policy Agent from Go's module proxy into DIR/opa-VERSION: the binary `opa`, and its
# conformance cases in `cases`. Go checks every module against opa/go.sum, and the cache of a built
# one is checked against the SHA256SUMS that the build wrote. Does nothing when it is there already;
# several may run at once.
#
# Usage: opa.sh [DIR]     default: $MADANG_SERVERS, else ~/.cache/madang-servers
# Needs: go, as new as opa/go.mod says. The first build takes about two minutes on two cores.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/opa
dir=${1:-${MADANG_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/madang-servers}}
version=$(sed -n 's|.*open-policy-agent/opa v||p' "$here/go.mod" | head -1)
target=$dir/opa-$version

check() { (cd "$1" && sha256sum --quiet --strict -c SHA256SUMS); }

if [ -d "$target" ]; then
    check "$target" || { echo "opa.sh: $target is not what was built; remove it" >&2; exit 1; }
    echo "$target"
    exit 0
fi

command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
mkdir -p "$dir"
coming=$(mktemp -d "$dir/.opa-XXXXXX")
trap 'chmod -R u+w "$coming"; rm -rf "$coming"' EXIT
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly
cd "$here"
mkdir "$coming/built"
go build -trimpath -o "$coming/built/opa" github.com/open-policy-agent/opa >&2
module=$(go list -m -f '{{.Dir}}' github.com/open-policy-agent/opa)
cp -R "$module/v1/test/cases/testdata/v1" "$coming/built/cases"
chmod -R u+w "$coming/built"
(cd "$coming/built" && find opa cases -type f -exec sha256sum {} + | LC_ALL=C sort -k2 > SHA256SUMS)
# A rename onto a folder that somebody else made first would land inside of it: -T refuses that.
mv -T "$coming/built" "$target" 2>/dev/null || check "$target"
echo "$target"
