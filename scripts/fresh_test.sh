#!/bin/sh
# Run the two commands of the README on another release that has only Python, in a root of its own in a folder.
#
#   sh scripts/fresh_test.sh trixie build/trixie         (make test-fresh SUITE=trixie)
#
# trixie is Debian 13 with Python 3.13, noble is Ubuntu 24.04 with 3.12. The script needs root, debootstrap and 8 GB. The
# folder is used again if it exists, with the last commit of this checkout.
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

# The network settings of this machine are copied.
cp /etc/resolv.conf "$root/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
mountpoint -q "$root/proc" || mount --bind /proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
trap 'umount "$root/proc" "$root/dev"' EXIT

rm -rf "$root/root/fresh"
git clone -q --no-hardlinks "$here" "$root/root/fresh"
chroot "$root" env HOME=/root LANG=C.UTF-8 sh -c 'python3 --version && make -C /root/fresh quickstart test'
