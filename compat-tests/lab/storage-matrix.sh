# Arguments: storage, format, then words for what its volumes can do: snapshot, template, linked (a clone of a snapshot),
# independent (a linked clone needs its template no longer).
S=$1 F=$2; shift 2; CAN=" $* "
can() { case "$CAN" in *" $1 "*) return 0;; *) return 1;; esac; }
fails() { if OUT=$("$@" 2>&1); then echo "no failure: $*: $OUT"; exit 1; fi; }
volume() { qm config "$1" --current 1 | sed -n "s/^$2: \([^,]*\).*/\1/p"; }
place() { P=$(pvesm path "$1"); case "$P" in /dev/*) lvchange -ay -K "$(echo "$P" | cut -d/ -f3)" >/dev/null;; esac; echo "$P"; }
format() { case "$1" in *.qcow2) echo qcow2;; *) echo raw;; esac; }
fill() { P=$(place "$1"); qemu-io -f "$(format "$P")" -c "write -P $2 ${3:-0} 64k" "$P" >/dev/null; }
holds() { P=$(place "$1"); R=$(qemu-io -f "$(format "$P")" -r -c "read -P $2 ${3:-0} 64k" "$P" 2>&1)
  case "$R" in *"read 65536/65536"*) ;; *) echo "no $2 in $1: $R"; exit 1;; esac
  case "$R" in *"verification failed"*) echo "no $2 in $1: $R"; exit 1;; esac; }
listed() { pvesm list "$S" --vmid "$1" | sed 1d | wc -l; }
size() { pvesh get "/nodes/localhost/storage/$S/content" --vmid "$1" --output-format json |
  python3 -c 'import json,sys; print(*[r["size"] for r in json.load(sys.stdin) if r["volid"]==sys.argv[1]])' "$2"; }
echo "== $S: allocate"
qm create 100 --memory 64 --scsi0 "$S:0.0625,format=$F"
V=$(volume 100 scsi0); [ "$(listed 100)" = 1 ]
fill "$V" 17
[ "$(size 100 "$V")" = 67108864 ]
echo "== resize"
qm resize 100 scsi0 +64M
[ "$(size 100 "$V")" = 134217728 ]
fails qm resize 100 scsi0 32M
holds "$V" 17
fill "$V" 18 100M
echo "== import"
qemu-img create -q -f qcow2 /root/source.qcow2 16M
qemu-io -f qcow2 -c 'write -P 51 1M 64k' /root/source.qcow2 >/dev/null
qm disk import 100 /root/source.qcow2 "$S" --format "$F" >/dev/null
U=$(volume 100 unused0); holds "$U" 51 1M; [ "$(listed 100)" = 2 ]
qm set 100 --delete unused0 >/dev/null; [ "$(listed 100)" = 1 ]
echo "== clone full"
qm clone 100 101 --full 1 >/dev/null
C=$(volume 101 scsi0); holds "$C" 17; holds "$C" 18 100M
qm clone 100 103 --full 1 --storage local >/dev/null
holds "$(volume 103 scsi0)" 18 100M; qm destroy 103
if can snapshot; then
  echo "== snapshot"
  qm snapshot 100 one >/dev/null
  fill "$V" 34
  qm snapshot 100 two >/dev/null
  fill "$V" 35
  qm snapshot 100 three >/dev/null
  fill "$V" 36
  holds "$V" 18 100M
  echo "== rollback"
  qm rollback 100 three >/dev/null; holds "$V" 35; holds "$V" 18 100M
  fill "$V" 37
  # In the midst, the newest, the oldest: nothing of what is there may change.
  qm delsnapshot 100 two >/dev/null; holds "$V" 37; holds "$V" 18 100M
  qm clone 100 104 --full 1 --snapname one >/dev/null; holds "$(volume 104 scsi0)" 17; qm destroy 104
  qm delsnapshot 100 one >/dev/null; holds "$V" 37; holds "$V" 18 100M
  fill "$V" 38
  qm rollback 100 three >/dev/null; holds "$V" 35
  qm delsnapshot 100 three >/dev/null; holds "$V" 35; holds "$V" 18 100M
  [ "$(listed 100)" = 1 ]
  fill "$V" 17
else
  fails qm snapshot 100 one
  holds "$V" 17
fi
if can linked; then
  echo "== clone of a snapshot"
  qm snapshot 100 one >/dev/null; fill "$V" 34
fi
echo "== template"
if can template; then
  can linked && qm delsnapshot 100 one >/dev/null && fill "$V" 17
  qm template 100
  B=$(volume 100 scsi0); case "$B" in *base-100-disk-0*) ;; *) echo "$B"; exit 1;; esac
  echo "== clone linked"
  qm clone 100 102 >/dev/null
  L=$(volume 102 scsi0); holds "$L" 17; holds "$L" 18 100M
  fill "$L" 52; holds "$L" 52
  if can independent; then
    qm destroy 100; holds "$L" 52; holds "$L" 18 100M
  else
    fails pvesm free "$B"
    fails qm destroy 100
  fi
  [ "$(listed 102)" = 1 ]
  qm destroy 102
else
  fails qm template 100
fi
echo "== free"
qm destroy 101; can independent || qm destroy 100
fails pvesm free "$S:../x"
[ "$(pvesm list "$S" | sed 1d | wc -l)" = 0 ]
echo "== done"
