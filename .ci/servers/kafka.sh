#!/bin/sh
# Fetches Apache Kafka's broker from Maven Central into DIR/kafka-VERSION and checks every file
# against kafka/SHA256SUMS. Does nothing when it is there already; several may run at once.
#
# Usage: kafka.sh [DIR]     default: $MADANG_SERVERS, else ~/.cache/madang-servers
# Needs: java 17 or newer, mvn.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/kafka
dir=${1:-${MADANG_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/madang-servers}}
version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")
target=$dir/kafka-$version

check() {
    # Every listed file is there with its hash, and no other file is.
    (cd "$1" && sha256sum --quiet --strict -c "$here/SHA256SUMS") &&
        [ "$(ls "$1" | wc -l)" -eq "$(wc -l < "$here/SHA256SUMS")" ]
}

if [ -d "$target" ]; then
    check "$target" || { echo "kafka.sh: $target differs from SHA256SUMS; remove it" >&2; exit 1; }
    echo "$target"
    exit 0
fi

mkdir -p "$dir"
coming=$(mktemp -d "$dir/.kafka-XXXXXX")
trap 'rm -rf "$coming"' EXIT
mvn -q -B -ntp -f "$here/pom.xml" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$coming/jars" >&2
check "$coming/jars" || { echo "kafka.sh: what was downloaded is not what is expected" >&2; exit 1; }
# A rename onto a folder that somebody else made first would land inside of it: -T refuses that.
mv -T "$coming/jars" "$target" 2>/dev/null || check "$target"
echo "$target"
