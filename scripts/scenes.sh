#!/bin/bash
# Plays the scenes of README.md on this machine, with its own kernel NFS client and a local mount target, in namespaces
# of its own: own processes, own network, own copy of every file. When it ends, nothing of it is left.
set -euo pipefail

clone=$(cd "$(dirname "$0")/.." && pwd)
file_system=fs-096bc04e855823d2e
region=us-east-1
name=$file_system.efs.$region.amazonaws.com
role=arn:aws:iam::111122223333:role/efs-client
events=/srv/target/events.jsonl

if [ "${1:-}" != --inside ]; then
  [ "$(id -u)" = 0 ] || { echo "scenes: only root can mount" >&2; exit 1; }
  # Modules are loaded from outside: the private root has no say in it.
  for module in nfsv4 overlay veth; do modprobe -q "$module" 2>/dev/null || true; done
  exec unshare --mount --net --pid --fork --kill-child --mount-proc --uts "$0" --inside "$@"
fi
shift
keep=no
[ "${1:-}" != --keep ] || keep=yes

started=${SCENES_STARTED_NS:-$(date +%s%N)}
phase() { printf '\n[%5.1f s] %s\n' "$(($(date +%s%N) - started))e-9" "$*"; }
fail() {
  printf '\nFAILED: %s\n' "$*" >&2
  { tail -n 20 /run/efs-agent/agent.log /srv/target/log 2>/dev/null | sed 's/^/  | /' >&2; } || true
  exit 1
}

# play STATUS COMMAND...: runs it as a person would type it, shows what is said, and checks how it ends.
play() {
  local expected=$1 status=0
  shift
  echo "# $*"
  output=$("$@" 2>&1 </dev/null) || status=$?
  [ -z "$output" ] || echo "$output"
  [ "$status" = "$expected" ] || fail "$1 ended with status $status, not $expected"
  [ "$status" = 0 ] || echo "# echo \$?
$status"
}
has() { grep -qE -- "$1" <<<"$output" || fail "it does not say: $1"; }

private_root() {
  local root=/mnt/root node
  mount -t tmpfs -o mode=755 scenes /mnt
  mkdir /mnt/upper /mnt/work "$root"
  mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay "$root"
  # A /usr of its own file system is not part of the root's.
  if mountpoint -q /usr; then
    mkdir /mnt/upper-usr /mnt/work-usr
    mount -t overlay -o lowerdir=/usr,upperdir=/mnt/upper-usr,workdir=/mnt/work-usr overlay "$root/usr"
  fi
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
  # An empty /run also hides the host's systemd: the mount helper starts the agent itself.
  for folder in run tmp srv; do mount -t tmpfs -o mode=755 "$folder" "$root/$folder"; done
  chmod 1777 "$root/tmp"
  node=$(readlink -f "$(command -v node)")
  for needed in "$clone" "$(dirname "$node")"; do
    [ -e "$root$needed" ] && [ "$needed" != "$clone" ] && continue
    mkdir -p "$root$needed"
    mount --bind "$needed" "$root$needed"
  done
  mkdir "$root/.old"
  cd "$root"
  pivot_root . .old
  cd /
  umount -l /.old
  rmdir /.old
  hostname instance
}

# Two machines: this one, 10.1.1.10, and the service's, 10.1.1.6, which also answers as instance metadata.
private_network() {
  ip link set lo up
  ip netns add service
  ip link add eth0 type veth peer name eth0 netns service
  ip address add 10.1.1.10/24 dev eth0
  ip link set eth0 up
  ip route add default via 10.1.1.6
  ip -n service link set lo up
  ip -n service address add 10.1.1.6/24 dev eth0
  ip -n service address add 169.254.169.254/32 dev eth0
  ip -n service link set eth0 up
}

write_policy() {
  cat >/srv/target/policy.json
}

start_target() {
  mkdir -p /srv/target
  write_policy <<JSON
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": { "AWS": "$role" },
      "Action": [
        "elasticfilesystem:ClientMount",
        "elasticfilesystem:ClientRootAccess",
        "elasticfilesystem:ClientWrite"
      ],
      "Resource": "*",
      "Condition": { "Bool": { "elasticfilesystem:AccessedViaMountTarget": "true" } }
    }
  ]
}
JSON
  ip netns exec service "$clone/dist/efs-agent.mjs" target --file-system "$file_system" --region "$region" --listen 10.1.1.6:2049 \
    --metadata 169.254.169.254:80 --policy /srv/target/policy.json --state-dir /srv/target/state --events "$events" \
    >/srv/target/log 2>&1 </dev/null &
  target=$!
}

await_target() {
  for _ in $(seq 600); do
    ! grep -q 'mount target listens' /srv/target/log || return 0
    kill -0 "$target" 2>/dev/null || fail "the mount target did not start"
    sleep 0.1
  done
  fail "the mount target did not start within a minute"
}

# The newest event of a new connection, whole; the service writes it while the mount goes on.
last_event() {
  node -e '
    const events = require("fs").readFileSync(process.argv[1], "utf8").trim().split("\n").map((line) => JSON.parse(line));
    console.log(JSON.stringify(events.findLast((event) => event.eventName === "NewClientConnection"), null, 2));
  ' "$events"
}

finish() {
  local status=$?
  umount -f -l /mount/efs 2>/dev/null || true
  exit "$status"
}

phase 'A private machine: own processes, network and files'
private_root
private_network
trap finish EXIT
mkdir -p /mount/efs

phase 'A mount target at 10.1.1.6 whose policy lets one role in, and nobody else'
start_target
cat /srv/target/policy.json

phase 'Installing efs-agent (./install.sh)'
"$clone/install.sh"
await_target
# What tells this mount target from Amazon's: its name in /etc/hosts, and the root that signed its certificate.
echo "10.1.1.6 $name" >>/etc/hosts
cp /srv/target/state/ca.pem /etc/amazon/efs/efs-utils.crt

phase 'Mounting with IAM'
play 0 mount -t efs -o tls,iam "$file_system" /mount/efs
play 0 df -hT -t nfs4
has '^127\.0\.0\.1:/ +nfs4 .* /mount/efs$'
play 0 mount -t nfs4
has '^127\.0\.0\.1:/ on /mount/efs type nfs4 \(rw,relatime,vers=4\.1,rsize=1048576,wsize=1048576,namlen=255,hard,noresvport,proto=tcp,port=[0-9]+,timeo=600,retrans=2,sec=sys,clientaddr=127\.0\.0\.1,local_lock=none,addr=127\.0\.0\.1\)$'
port=$(sed -E 's/.*,port=([0-9]+),.*/\1/' <<<"$output")
play 0 ss -antp
has "^LISTEN .* 127\.0\.0\.1:$port .*"
has "^ESTAB .* 127\.0\.0\.1:$port .*"
has '^ESTAB .* 10\.1\.1\.10:[0-9]+ +10\.1\.1\.6:2049 .*'

phase 'Writing a file and reading it back'
play 0 dd if=/dev/urandom of=/mount/efs/file bs=1M count=4 conv=fsync status=none
play 0 sha256sum /mount/efs/file
written=${output%% *}
echo 3 >/proc/sys/vm/drop_caches
play 0 sha256sum /mount/efs/file
[ "${output%% *}" = "$written" ] || fail 'the file has other bytes now'

phase 'What the service recorded (CloudTrail: NewClientConnection)'
output=$(last_event)
echo "$output"
has '"arn": "arn:aws:sts::111122223333:assumed-role/efs-client/i-[0-9a-f]+"'
has '"accessKeyId": "ASIA[A-Z0-9]+"'
has '"ClientMount": true'
has '"sourceIpAddress": "10\.1\.1\.10"'
play 0 efs-agent status

phase 'Unmounting'
play 0 umount /mount/efs
play 0 efs-agent status

phase 'Without IAM: -o tls'
play 32 mount -t efs -o tls "$file_system" /mount/efs
has 'access denied by server while mounting 127\.0\.0\.1:/'
has 'iam'
output=$(last_event)
has '"accountId": "ANONYMOUS_PRINCIPAL"'
has '"errorCode": "AccessDenied"'
play 0 efs-agent status

phase 'Without IAM and without TLS: plain NFS'
play 32 mount -t nfs4 -o nfsvers=4.1 "$name:/" /mount/efs
has 'access denied by server'
output=$(last_event)
has '"accountId": "ANONYMOUS_PRINCIPAL"'
has '"errorCode": "AccessDenied"'

phase 'Nothing is left'
! grep -q ' nfs4 ' /proc/mounts || fail 'something is still mounted'
play 0 ss -antp
! grep -qE 'LISTEN|ESTAB' <<<"$output" || fail 'a socket is still open'

if [ "$keep" = yes ]; then
  phase 'Mounted again on /mount/efs, to play with; exit ends it all'
  mount -t efs -o tls,iam "$file_system" /mount/efs
  cd /mount/efs
  bash -i || true
  cd /
  umount /mount/efs
fi
phase 'Every step held.'
