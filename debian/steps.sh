#!/bin/sh
# Builds and installs the package on a bare Debian. Containerfile and tests/package/bare.py run the
# same steps, as root. usage:
#   steps.sh build SOURCE OUT    build dependencies, then the package; it goes to OUT
#   steps.sh install FOLDER      installs the package in FOLDER, and a folder for its state
# DEB_BUILD_OPTIONS (nocheck) and DEB_BUILD_PROFILES (nocheck) as dpkg-buildpackage takes them.
set -eu
export DEBIAN_FRONTEND=noninteractive

usage() {
    sed -n '2,6p' "$0" | cut -c3- >&2
    exit 2
}

build() {
    source=$1 out=$2
    export DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS-nocheck}" DEB_BUILD_PROFILES="${DEB_BUILD_PROFILES-nocheck}"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends dpkg-dev build-essential fakeroot >/dev/null
    apt-get build-dep -y -qq --no-install-recommends "$source" >/dev/null
    (cd "$source" && dpkg-buildpackage -us -uc -b)
    mkdir -p "$out"
    mv "$source"/../driftd_*.deb "$out/"
}

install() {
    set -- "$1"/driftd_*.deb
    if [ ! -f "$1" ] || [ $# -ne 1 ]; then
        echo "steps.sh: expected one package, found: $*" >&2
        exit 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$1" >/dev/null
    rm -rf /var/lib/apt/lists/*
    # Outside of systemd: a folder that the user of the container may write.
    mkdir -p /var/lib/driftd
    chown 10001:10001 /var/lib/driftd
    chmod 0700 /var/lib/driftd
}

case ${1:-}/$# in
build/3) build "$2" "$3" ;;
install/2) install "$2" ;;
*) usage ;;
esac
