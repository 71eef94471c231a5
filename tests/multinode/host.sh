#!/usr/bin/env bash
# Pid 1 of one make-believe machine: its own network, host name, processes and /dev/shm, the disks of the real one.
#   host.sh NAME ADDRESS/BITS FOLDER      FOLDER has hosts and nsswitch.conf; up.NAME in it says that it is up
name=$1 address=$2 folder=$3
hostname "$name"
mount --bind "$folder/hosts" /etc/hosts
mount --bind "$folder/nsswitch.conf" /etc/nsswitch.conf   # no name server can be reached: each look-up would wait 10 s
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep .02; done # the cable is plugged in from outside
ip address add "$address" dev eth0
touch "$folder/up.$name"
trap 'exit 0' TERM
while :; do sleep 60 & wait $!; done                      # reaps orphans
