#!/bin/sh
# The README's two commands on a machine of another release that has only Python: a root of its own, in a folder.
#
#   sh scripts/fresh_test.sh trixie build/trixie         (make test-fresh SUITE=trixie)
#
# trixie is Debian 13 with Python 3.13, noble is Ubuntu 24.04 with 3.12. Takes root, debootstrap and 8 GB. What is in the
# folder already is used again, with the last commit of this checkout.
set -eu
suite=$1
mkdir -p "$2"
root=$(realpath "$2")
here=$(realpath "$(dirname "$0")/..")

if [ ! -e "$root/etc/debian_version" ]; then
    scripts=/usr/share/debootstrap/scripts
    [ -e $scripts ] || { echo "debootstrap is needed: apt-get install debootstrap" >&2; exit 2; }
    case $suite in
        focal | jammy | noble) mirror=http://archive.ubuntu.com/ubuntu family=gutsy parts=main,universe ;;
        *) mirror=http://deb.debian.org/debian family=sid parts=main ;;
    esac
    debootstrap --variant=minbase --components=$parts --include=ca-certificates,git,make,python3 \
        "$suite" "$root" $mirror $scripts/$family
fi

# What reaches package registries from here reaches them from there.
cp /etc/resolv.conf "$root/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
mountpoint -q "$root/proc" || mount --bind /proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
trap 'umount "$root/proc" "$root/dev"' EXIT

rm -rf "$root/root/fresh"
git clone -q --no-hardlinks "$here" "$root/root/fresh"
chroot "$root" env HOME=/root LANG=C.UTF-8 sh -c 'python3 --version && make -C /root/fresh quickstart test'
