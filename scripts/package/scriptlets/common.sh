#!/bin/sh
# What the scripts of both kinds of package share; the build puts it in the place of their line ". ./common.sh".
# A function that one of them does not call is there all the same.
# shellcheck disable=SC2317,SC2329

systemd_runs() { [ -d /run/systemd/system ]; }

# The user of the tunnel workers, and /run/efs-agent.
make_user() {
  if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers /usr/lib/sysusers.d/efs-agent.conf
  elif ! getent passwd efs-agent >/dev/null; then
    useradd --system --no-create-home --home-dir / --shell /usr/sbin/nologin efs-agent
  fi
  if systemd_runs; then systemd-tmpfiles --create /usr/lib/tmpfiles.d/efs-agent.conf; fi
  # What install.sh had put here belongs to the package now.
  rm -f /usr/lib/efs-agent/installed
}

# Every running agent, those of other network namespaces too, hands its mounts over to the version that is installed now.
renew_agents() {
  for pid_file in /run/efs-agent/agent.pid /run/efs-agent/netns/*/agent.pid; do
    [ -f "$pid_file" ] || continue
    pid=$(cat "$pid_file")
    # A number alone proves nothing: the process must be an agent.
    if tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qx /usr/lib/efs-agent/agent.cjs; then
      kill -HUP "$pid" || true
    fi
  done
}

has_mounts() {
  for record in /run/efs-agent/mounts/*.json /run/efs-agent/netns/*/mounts/*.json; do
    [ ! -f "$record" ] || return 0
  done
  return 1
}

# The agent notices a plain umount a little later: it is given some seconds.
refuse_while_mounted() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    has_mounts || return 0
    grep -q ' nfs4 ' /proc/mounts || sleep 1
  done
  echo "efs-agent: file systems are mounted through it, and would hang without it: nothing is removed." >&2
  echo "  See efs-agent status, and unmount them first." >&2
  exit 1
}

stop_agents() {
  if systemd_runs; then systemctl stop efs-agent.socket efs-agent.service; fi
}

forget_agents() {
  if systemd_runs; then
    systemctl daemon-reload
    systemctl reset-failed efs-agent.socket efs-agent.service 2>/dev/null || true
  fi
  rm -rf /run/efs-agent
}

forget_user() {
  if getent passwd efs-agent >/dev/null 2>&1; then userdel efs-agent || true; fi
}
