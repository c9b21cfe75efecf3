#!/bin/sh
# Takes from a Linux host what numa-service needs to emulate it: zones, nodes, CPUs, distances, sysctls.
#
#   sh gather-numa.sh DIR     writes DIR/proc/... and DIR/sys/... (DIR must not exist)
#
# Then, anywhere:  numa-service import DIR -o host.toml
#
# Needs only a POSIX shell with cat, mkdir, ls and dirname. As root it also gets where memory has holes
# (/proc/iomem), the boot log and the ACPI tables; as a user the copy is as good, without those.
# What it takes: numbers of memory and CPUs, kernel version and command line. No processes, no addresses of
# devices, no host name. Look at DIR/proc/cmdline before you hand it on.
set -u

fail() {
    echo "gather-numa: $1" >&2
    exit 1
}

[ $# -eq 1 ] || fail "usage: sh gather-numa.sh DIR"
case $1 in -*) fail "usage: sh gather-numa.sh DIR" ;; esac
out=$1
[ ! -e "$out" ] || fail "$out exists: give a directory that does not"
[ -r /proc/zoneinfo ] || fail "/proc/zoneinfo cannot be read: is this Linux, with /proc mounted?"
mkdir -p "$out" || exit 1

missed=0
# One file, under its own path; what cannot be read is left out.
take() {
    [ -f "$1" ] && [ -r "$1" ] || return 1
    mkdir -p "$out/$(dirname "$1")" || exit 1
    if ! cat "$1" >"$out/$1" 2>/dev/null; then
        rm -f "$out/$1"
        return 1
    fi
}

for file in zoneinfo version cmdline meminfo cpuinfo swaps; do
    take "/proc/$file" || missed=$((missed + 1))
done
for file in /proc/sys/vm/* /proc/sys/kernel/numa_balancing; do
    take "$file"
done

# To others than root the addresses are all zero: worse than none.
if [ "$(id -u)" = 0 ]; then
    take /proc/iomem
    dmesg >"$out/dmesg.txt" 2>/dev/null || rm -f "$out/dmesg.txt"
    for table in SRAT SLIT HMAT APIC; do
        take "/sys/firmware/acpi/tables/$table"
    done
fi

node=/sys/devices/system/node
for file in online possible has_cpu has_memory; do
    take "$node/$file"
done
for dir in "$node"/node[0-9]*; do
    [ -d "$dir" ] || continue
    for file in cpulist cpumap distance meminfo; do
        take "$dir/$file"
    done
    for file in "$dir"/access0/initiators/*; do
        if [ -d "$file" ]; then
            mkdir -p "$out/$file"
        else
            take "$file"
        fi
    done
done
cpu=/sys/devices/system/cpu
for file in online possible present; do
    take "$cpu/$file"
done
for dir in "$cpu"/cpu[0-9]*; do
    take "$dir/online"
    for file in physical_package_id core_id thread_siblings_list; do
        take "$dir/topology/$file"
    done
done

[ -s "$out/proc/zoneinfo" ] || fail "/proc/zoneinfo was empty"
echo "gather-numa: $out is done$([ $missed = 0 ] || echo ", without $missed files")" >&2
