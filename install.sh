#!/bin/sh
# Installs efs-agent from dist/, or takes it away again without a trace.
set -eu

usage() {
  echo "Usage: ./install.sh [--destdir DIR] [--node PROGRAM] [--force] [--uninstall]"
  echo "  --destdir DIR  install below DIR, for packages and images; starts nothing"
  echo "  --node PROGRAM the Node.js that will run it there; the default is the one found here"
  echo "  --force        replace another program's mount.efs; uninstall under live mounts"
  echo "  --uninstall    remove what was installed; a configuration file that was changed stays"
}

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

destdir=
node=
force=no
uninstall=no
while [ $# -gt 0 ]; do
  case $1 in
    --destdir)
      [ $# -ge 2 ] || fail "--destdir needs a directory"
      destdir=${2%/}
      shift
      ;;
    --destdir=*)
      destdir=${1#--destdir=}
      destdir=${destdir%/}
      ;;
    --node)
      [ $# -ge 2 ] || fail "--node needs a program"
      node=$2
      shift
      ;;
    --node=*) node=${1#--node=} ;;
    --force) force=yes ;;
    --uninstall) uninstall=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      exit 1
      ;;
  esac
  shift
done
case $destdir in
  '' | /*) ;;
  *) destdir=$PWD/$destdir ;;
esac

source=$(cd "$(dirname "$0")" && pwd)
lib=/usr/lib/efs-agent
manual=/usr/share/man
if [ -d "$destdir/usr/lib/systemd/system" ] || [ ! -d "$destdir/lib/systemd/system" ]; then
  units=/usr/lib/systemd/system
else
  units=/lib/systemd/system
fi
# zsh looks in the first on Debian's family, in the second elsewhere.
if [ -d "$destdir/usr/share/zsh/vendor-completions" ]; then
  zsh=/usr/share/zsh/vendor-completions
else
  zsh=/usr/share/zsh/site-functions
fi
sysusers=/usr/lib/sysusers.d/efs-agent.conf
tmpfiles=/usr/lib/tmpfiles.d/efs-agent.conf
config=/etc/amazon/efs
record=$lib/installed

systemd_runs() {
  [ -z "$destdir" ] && [ -d /run/systemd/system ]
}

[ -n "$destdir" ] || [ "$(id -u)" = 0 ] || fail "only root can install; with --destdir anybody can"

if [ "$uninstall" = yes ]; then
  [ -f "$destdir$record" ] || fail "efs-agent is not installed${destdir:+ in $destdir}"
  if [ -z "$destdir" ] && [ "$force" = no ]; then
    for mount in /run/efs-agent/mounts/*.json /run/efs-agent/netns/*/mounts/*.json; do
      [ ! -f "$mount" ] || fail "file systems are mounted (see efs-agent status): unmount them first, or give --force"
    done
  fi
  if systemd_runs; then
    systemctl disable --now efs-agent.socket efs-agent.service || fail "cannot stop the agent; nothing was removed"
  fi
  # Directories follow their files in the record, so that they are empty by then; one that others use too stays.
  while read -r kind sum path; do
    case $kind in
      config)
        [ -f "$destdir$path" ] || continue
        if [ "$(cksum <"$destdir$path" | tr ' ' -)" = "$sum" ]; then
          rm -f "$destdir$path"
        else
          echo "install.sh: $path was changed and stays"
        fi
        ;;
      file) rm -f "$destdir$path" ;;
      link) [ "$(readlink "$destdir$path" || true)" != "$sum" ] || rm -f "$destdir$path" ;;
      dir) rmdir "$destdir$path" 2>/dev/null || true ;;
    esac
  done <<EOF
$(cat "$destdir$record")
EOF
  for helper in /sbin/mount.efs /sbin/umount.efs; do
    if [ -e "$destdir$helper.replaced" ]; then mv "$destdir$helper.replaced" "$destdir$helper"; fi
  done
  if systemd_runs; then
    systemctl daemon-reload
    systemctl reset-failed efs-agent.socket efs-agent.service 2>/dev/null || true
  fi
  if [ -z "$destdir" ]; then
    rm -rf /run/efs-agent
    if getent passwd efs-agent >/dev/null 2>&1; then userdel efs-agent || true; fi
  fi
  exit 0
fi

for bundle in mount-efs.cjs efs-agent.mjs agent.cjs worker.cjs identity.cjs; do
  [ -f "$source/dist/$bundle" ] || fail "dist/$bundle is missing: run npm run build first"
done

# One that was named may belong to another processor, or come with the same package.
if [ -z "$node" ]; then
  node=$(command -v node) || fail "node was not found: install Node.js 20.19 or newer"
  node=$("$node" -p process.execPath) || fail "node does not run: $node"
  "$node" -e '
    const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1);
  ' || fail "Node.js $("$node" -v) is too old: efs-agent needs 20.19 or newer"
fi

case $node in
  /*) ;;
  *) fail "--node needs an absolute path, not $node" ;;
esac
case $node in
  /root/* | /home/*) echo "install.sh: warning: $node is in a home directory, which tunnel workers may not enter" >&2 ;;
esac

for helper in /sbin/mount.efs /sbin/umount.efs; do
  [ -e "$destdir$helper" ] || [ -L "$destdir$helper" ] || continue
  [ "$(readlink "$destdir$helper" || true)" = "$lib/mount-efs.cjs" ] && continue
  [ "$force" = yes ] || fail "$helper belongs to another program (amazon-efs-utils?): remove that first, or give --force"
  mv "$destdir$helper" "$destdir$helper.replaced"
done

[ -d "$destdir/" ] || mkdir -p "$destdir"
old_record=
[ ! -f "$destdir$record" ] || old_record=$(cat "$destdir$record")
files=
dirs=

remember() {
  files="$files$1 $2 $3
"
}

# A directory that does not exist yet is ours to remove, and so are its parents; of an earlier installation too.
make_dir() {
  if [ ! -d "$destdir$1" ]; then
    case $1 in
      /*/*) make_dir "${1%/*}" ;;
    esac
    mkdir -m 755 "$destdir$1"
    dirs="dir - $1
$dirs"
  fi
}

# put MODE SOURCE TARGET: whole or not at all, since a helper may be started at any moment.
put() {
  make_dir "${3%/*}"
  sed "s|@NODE@|$node|g; 2s|; exec node |; exec $node |" "$2" >"$destdir$3.new"
  chmod "$1" "$destdir$3.new"
  mv -f "$destdir$3.new" "$destdir$3"
  remember file - "$3"
}

link() {
  make_dir "${2%/*}"
  ln -sfn "$1" "$destdir$2"
  remember link "$1" "$2"
}

# A configuration file that is there is the administrator's.
put_config() {
  if [ ! -e "$destdir$3" ]; then
    put "$1" "$2" "$3"
    files=${files%"file - $3
"}
    remember config "$(cksum <"$destdir$3" | tr ' ' -)" "$3"
  else
    files="$files$(echo "$old_record" | grep "^config [^ ]* $3\$" || true)
"
  fi
}

for bundle in mount-efs.cjs efs-agent.mjs; do put 755 "$source/dist/$bundle" "$lib/$bundle"; done
for bundle in "$source"/dist/*.cjs; do
  [ "${bundle##*/}" = mount-efs.cjs ] || put 644 "$bundle" "$lib/${bundle##*/}"
done
rm -f "$destdir$lib"/chunks/*
for chunk in "$source"/dist/chunks/*; do
  [ ! -f "$chunk" ] || put 644 "$chunk" "$lib/chunks/${chunk##*/}"
done
link "$lib/efs-agent.mjs" /usr/bin/efs-agent
link "$lib/mount-efs.cjs" /sbin/mount.efs
link "$lib/mount-efs.cjs" /sbin/umount.efs
put 644 "$source/systemd/efs-agent.service" "$units/efs-agent.service"
put 644 "$source/systemd/efs-agent.socket" "$units/efs-agent.socket"
put 644 "$source/systemd/efs-agent.sysusers.conf" "$sysusers"
put 644 "$source/systemd/efs-agent.tmpfiles.conf" "$tmpfiles"
for page in "$source"/docs/man/*.[1-9]; do
  put 644 "$page" "$manual/man${page##*.}/${page##*/}"
done
put 644 "$source/dist/completions/efs-agent" /usr/share/bash-completion/completions/efs-agent
put 644 "$source/dist/completions/_efs-agent" "$zsh/_efs-agent"
put 644 "$source/dist/completions/efs-agent.fish" /usr/share/fish/vendor_completions.d/efs-agent.fish
put_config 644 "$source/systemd/efs-utils.conf" "$config/efs-utils.conf"
[ ! -f "$source/systemd/efs-utils.crt" ] || put_config 444 "$source/systemd/efs-utils.crt" "$config/efs-utils.crt"

old_dirs=$(echo "$old_record" | grep '^dir ' || true)
printf '%s' "$files" | grep -v '^$' >"$destdir$record.new"
{
  echo "file - $record"
  echo "$dirs$old_dirs" | grep -v '^$' || true
} >>"$destdir$record.new"
chmod 644 "$destdir$record.new"
mv -f "$destdir$record.new" "$destdir$record"

if [ -z "$destdir" ]; then
  if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers "$sysusers"
  elif ! getent passwd efs-agent >/dev/null; then
    useradd --system --no-create-home --home-dir / --shell /usr/sbin/nologin efs-agent
  fi
fi
if systemd_runs; then
  systemd-tmpfiles --create "$tmpfiles"
  systemctl daemon-reload
  systemctl enable --now efs-agent.socket
  # A new version takes the place of a running one.
  systemctl try-restart efs-agent.service
fi
