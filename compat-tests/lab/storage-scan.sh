pvesm scan nfs 127.0.0.1 | grep /srv/nfs
pvesm scan cifs 127.0.0.1 --username lab --password geheim | grep data
systemctl start tgt
truncate -s 64M /root/lun.img
tgtadm --lld iscsi --op new --mode target --tid 1 -T iqn.2026-01.lab:disk
tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b /root/lun.img
tgtadm --lld iscsi --op bind --mode target --tid 1 -I ALL; systemctl start iscsid
pvesm scan iscsi 127.0.0.1 | grep iqn.2026-01.lab:disk
pvesm add iscsi san --portal 127.0.0.1 --target iqn.2026-01.lab:disk --content images
for i in $(seq 30); do ID=$(pvesm list san | sed -n 's/^\(san:[^ ]*\).*/\1/p'); [ -n "$ID" ] && break; sleep 1; done
case "$ID" in san:0.0.1.scsi-*) ;; *) echo "$ID"; exit 1;; esac
[ "$(blockdev --getsize64 "$(pvesm path "$ID")")" = 67108864 ]
pvesm add lvm onsan --vgname sanvg --base "$ID" --content images
pvesm alloc onsan 900 vm-900-disk-0 16M; pvesm free onsan:vm-900-disk-0
pvesm remove onsan; vgchange -an sanvg; pvesm remove san
for i in $(seq 30); do iscsiadm -m session 2>&1 | grep -q iqn || break; sleep 1; done
echo "== done"
