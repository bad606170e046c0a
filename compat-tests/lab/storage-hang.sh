# A hard mount waits for its server for ever: whatever ends here has not waited for it. An emulated machine needs most of
# the time for itself, so the limits are far above what the product allows itself, and far below what a person would bear.
fails() { if OUT=$("$@" 2>&1); then echo "no failure: $*: $OUT"; exit 1; fi; }
pveum user token remove root@pam hang 2>/dev/null || true
TOKEN=$(pveum user token add root@pam hang --privsep 0 --output-format json | python3 -c 'import json,sys; print(json.load(sys.stdin)["value"])')
api() { curl -ksS -m 90 --retry 5 --retry-all-errors --retry-delay 1 -H "Authorization: PVEAPIToken=root@pam!hang=$TOKEN" "https://127.0.0.1:8006/api2/json$1"; }
now() { date +%s; }
for i in $(seq 60); do api /nodes/localhost/storage/nas/status | grep -q '"active":1' && break; sleep 1; done
api /nodes/localhost/storage/nas/content >/dev/null
systemctl stop nfs-server
for MODE in gone silent; do
  echo "== $MODE"
  if [ $MODE = silent ]; then
    # Takes connections and says nothing: whoever asks hangs in the kernel.
    python3 -c 'import socket,time
s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1",2049)); s.listen(64); time.sleep(3600)' &
    SILENT=$!
    sleep 5
  fi
  T=$(now); timeout -s KILL 90 pvesm status > /root/rows
  grep -q '^nas .* inactive' /root/rows; grep -q '^local .* active' /root/rows
  echo "status $(($(now)-T)) s"
  T=$(now); fails timeout -s KILL 90 pvesm list nas; case "$OUT" in *Killed*|"") exit 1;; esac; echo "list nas $(($(now)-T)) s: $OUT"
  pvesm list local >/dev/null
  echo "-- daemon"
  PIDS=
  for i in 1 2 3 4 5 6 7 8; do api /nodes/localhost/storage/nas/content > /root/hang.$i & PIDS="$PIDS $!"; done
  T=$(now); api /nodes/localhost/storage/local/content | grep -q '"data":\['; api /version >/dev/null; api /cluster/resources >/dev/null
  echo "others $(($(now)-T)) s"; [ $(($(now)-T)) -lt 60 ]
  wait $PIDS
  echo "hanging lists $(($(now)-T)) s"
  for i in 1 2 3 4 5 6 7 8; do grep -q '"data":null' /root/hang.$i; done
  for i in $(seq 30); do api /nodes/localhost/storage > /root/rows; grep -q '"reason":"storage .nas. [^"]*' /root/rows && break; sleep 1; done
  grep -o '"reason":"[^"]*nas[^"]*"' /root/rows
  T=$(now); timeout 120 systemctl restart pvedaemon; echo "restart $(($(now)-T)) s"
  for i in $(seq 60); do api /version | grep -q release && break; sleep 1; done
done
kill $SILENT
systemctl start nfs-server; exportfs -ra
for i in $(seq 150); do api /nodes/localhost/storage/nas/status | grep -q '"active":1' && break; sleep 1; done
api /nodes/localhost/storage/nas/status | grep '"active":1'
api /nodes/localhost/storage/nas/content | grep '"data":\['
pveum user token remove root@pam hang
echo "== done"
