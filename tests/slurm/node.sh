#!/usr/bin/env bash
# Pid 1 of one make-believe machine: its own network, host name, processes and /dev/shm, the disks of the real one.
#   node.sh NAME ADDRESS/BITS GATEWAY FOLDER      FOLDER has hosts, nsswitch.conf and slurm.conf
# SIGUSR1 starts a slurmd that is gone.
name=$1 address=$2 gateway=$3 folder=$4
export SLURM_CONF=$folder/slurm.conf

hostname "$name"
mount --bind "$folder/hosts" /etc/hosts
mount --bind "$folder/nsswitch.conf" /etc/nsswitch.conf   # no name server can be reached: each look-up would wait 10 s
mount -t sysfs sysfs /sys 2>/dev/null                     # or /sys/class/net would show the real machine's
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep .02; done # the cable is plugged in from outside
ip address add "$address" dev eth0
ip route add default via "$gateway"

slurmd=
serve() { if [ -z "$slurmd" ] || ! kill -0 "$slurmd" 2>/dev/null; then slurmd -D -N "$name" & slurmd=$!; fi; }
trap serve USR1
trap 'exit 0' TERM
serve
while :; do wait; sleep .2 & wait $!; done                # stays up without slurmd, and reaps orphans
