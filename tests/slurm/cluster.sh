#!/usr/bin/env bash
# A Slurm cluster of two nodes inside one Debian machine, for tests; as root, without systemd, on loopback only.
#
#   cluster.sh install   installs the Debian packages, if they are missing
#   cluster.sh up        munged, MariaDB, slurmdbd, slurmctld and two slurmd; prints the SLURM_CONF to use
#   cluster.sh down      stops all of them
#
# All files are in $TRIPTYCH_SLURM_DIR (default /tmp/triptych-slurm); an existing Slurm, munge or database of the machine
# is not touched. Accounting is needed because submitit detects a killed job through sacct only.
set -euo pipefail

state=${TRIPTYCH_SLURM_DIR:-/tmp/triptych-slurm}
port=${TRIPTYCH_SLURM_PORT:-26817}
host=$(hostname -s)
packages=(slurmctld slurmd slurm-client munge slurmdbd mariadb-server)
export SLURM_CONF=$state/slurm.conf
export MYSQL_UNIX_PORT=$state/database/socket   # read by slurmdbd's client library

fail() { echo "error: $*" >&2; exit 2; }

install() {
  dpkg -s "${packages[@]}" > /dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] || fail "installing ${packages[*]} needs root: ask for them, or run as root"
  command -v apt-get > /dev/null || fail "no apt-get here: install ${packages[*]} by the means of this system"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
}

# running NAME PIDFILE
running() { [ -s "$2" ] && [ "$(cat "/proc/$(tr -dc 0-9 < "$2")/comm" 2> /dev/null)" = "$1" ]; }

# until_true SECONDS WHAT COMMAND...
until_true() {
  local tries=$((10 * $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || fail "$what does not come up: see $state/log"
    sleep 0.1
  done
}

configure() {
  cat > "$state/slurm.conf" <<CONF
ClusterName=triptych
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
# No cgroups, no PMIx; nodes may declare more resources than the machine has.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
# A requeued job waits until its credential has expired; by default two minutes.
AuthInfo=socket=$state/munge/socket,cred_expire=5
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
# The partition 'urgent' takes nodes from 'normal': SIGTERM and the job's own signal, a grace time, then the queue again.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=10
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/spool/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd-%n.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$state/munge/socket
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4 RealMemory=8000 State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 3)) CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
  echo "CgroupPlugin=autodetect" > "$state/cgroup.conf"
  install_private "$state/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
CommunicationParameters=NoInAddrAny
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=triptych_accounting
LogFile=$state/log/slurmdbd.log
PidFile=$state/slurmdbd.pid
CONF
}

install_private() { (umask 077 && cat > "$1"); }

both_idle() { [ "$(sinfo -h -N -p normal -o %T | grep -cE 'idle|mixed|allocated')" = 2 ]; }

up() {
  [ "$(id -u)" = 0 ] || fail "slurmd needs root"
  for program in munged slurmctld slurmd slurmdbd mariadbd; do
    command -v $program > /dev/null || fail "$program is missing: run 'tests/slurm/cluster.sh install'"
  done
  getent hosts "$host" | grep -qE '^(127\.|::1)' || fail "the host name $host must be that of a loopback address: add it to /etc/hosts"
  mkdir -p "$state"/{munge,controller,log,database,spool/node1,spool/node2}
  chmod 755 "$state" "$state/munge"
  configure
  [ -s "$state/munge/key" ] || head -c 1024 /dev/urandom | install_private "$state/munge/key"
  running munged "$state/munge/pid" || munged --key-file="$state/munge/key" --socket="$state/munge/socket" \
    --pid-file="$state/munge/pid" --log-file="$state/munge/log" --seed-file="$state/munge/seed"
  [ -d "$state/database/data/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$state/database/data" \
    --auth-root-authentication-method=socket --skip-test-db > "$state/log/install-db.log" 2>&1
  if ! running mariadbd "$state/database/pid"; then
    setsid mariadbd --no-defaults --user=root --datadir="$state/database/data" --socket="$MYSQL_UNIX_PORT" \
      --pid-file="$state/database/pid" --skip-networking --innodb-flush-log-at-trx-commit=0 \
      < /dev/null > "$state/log/mariadbd.log" 2>&1 &
    until_true 60 mariadbd mariadb-admin --no-defaults --socket="$MYSQL_UNIX_PORT" ping
  fi
  if ! running slurmdbd "$state/slurmdbd.pid"; then
    slurmdbd
    until_true 60 slurmdbd sacctmgr -n -P list cluster
    [ -n "$(sacctmgr -n -P list cluster triptych)" ] || sacctmgr -i add cluster triptych > "$state/log/sacctmgr.log" 2>&1
  fi
  running slurmctld "$state/slurmctld.pid" || slurmctld -f "$SLURM_CONF"
  until_true 30 slurmctld scontrol ping
  for node in node1 node2; do
    running slurmd "$state/slurmd-$node.pid" || slurmd -f "$SLURM_CONF" -N $node
  done
  until_true 30 "the nodes" both_idle
  echo "$SLURM_CONF"
}

# stop NAME PIDFILE
stop() {
  running "$1" "$2" || return 0
  local pid tries=100
  pid=$(tr -dc 0-9 < "$2")
  kill "$pid" 2> /dev/null || true
  while running "$1" "$2" && [ $tries -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done
  kill -9 "$pid" 2> /dev/null || true
  rm -f "$2"
}

down() {
  if running slurmctld "$state/slurmctld.pid"; then
    timeout 10 scancel --state=PENDING -u root > /dev/null 2>&1 || true
    timeout 10 scancel -u root > /dev/null 2>&1 || true
    sleep 1
  fi
  stop slurmd "$state/slurmd-node1.pid"
  stop slurmd "$state/slurmd-node2.pid"
  stop slurmctld "$state/slurmctld.pid"
  stop slurmdbd "$state/slurmdbd.pid"
  stop mariadbd "$state/database/pid"
  stop munged "$state/munge/pid"
  rm -rf "$state"
}

case ${1:-} in
  install | up | down) "$1" ;;
  *) fail "usage: cluster.sh install | up | down" ;;
esac
