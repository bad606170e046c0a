# Three empty disks: $1, $2, $3 without /dev/.
fails() { if OUT=$("$@" 2>&1); then echo "no failure: $*: $OUT"; exit 1; fi; }
N=/nodes/localhost/disks
disk() { pvesh get $N/list --output-format json | python3 -c 'import json,sys
for r in json.load(sys.stdin):
    if r["devpath"]==sys.argv[1]: print(r.get(sys.argv[2],""))' "/dev/$1" "$2"; }
echo "== list"
[ "$(disk $1 size)" = "$(blockdev --getsize64 /dev/$1)" ]; [ "$(disk $1 used)" = "" ]
echo "== smart"
pvesh get $N/smart --disk /dev/$1 --output-format json
echo "== init"
pvesh create $N/initgpt --disk /dev/$1
[ "$(blkid -o value -s PTTYPE /dev/$1)" = gpt ]; [ "$(disk $1 gpt)" = 1 ]
echo "== wipe"
pvesh set $N/wipedisk --disk /dev/$1
[ "$(blkid -o value -s PTTYPE /dev/$1)" = "" ]
echo "== directory"
pvesh create $N/directory --device /dev/$1 --name labdir --filesystem ext4 --add_storage 1
findmnt -n /mnt/pve/labdir; pvesm status | grep '^labdir .* active'
pvesh get $N/directory --output-format json | grep /mnt/pve/labdir
[ "$(disk $1 used)" != "" ]
fails pvesh create $N/lvm --device /dev/$1 --name labvg
fails pvesh set $N/wipedisk --disk /dev/$1
echo "== lvm"
pvesh create $N/lvm --device /dev/$2 --name labvg --add_storage 1
pvesh get $N/lvm --output-format json | grep labvg
[ "$(disk $2 used)" = LVM ]
pvesm alloc labvg 900 vm-900-disk-0 64M; pvesm free labvg:vm-900-disk-0
echo "== lvmthin"
pvesh create $N/lvmthin --device /dev/$3 --name labthin --add_storage 1
pvesh get $N/lvmthin --output-format json | grep labthin
pvesm alloc labthin 900 vm-900-disk-0 64M; pvesm free labthin:vm-900-disk-0
pvesm scan lvm | grep labvg; pvesm scan lvmthin labthin | grep labthin
echo "== remove"
pvesh delete $N/lvmthin/labthin --volume-group labthin --cleanup-disks 1 --cleanup-config 1
pvesh delete $N/lvm/labvg --cleanup-disks 1 --cleanup-config 1
pvesh delete $N/directory/labdir --cleanup-disks 1 --cleanup-config 1
fails grep -E 'labdir|labvg|labthin' /etc/pve/storage.cfg
[ "$(lsblk -n /dev/$1 /dev/$2 /dev/$3 | wc -l)" = 3 ]
for d in $1 $2 $3; do [ "$(disk $d used)" = "" ]; done
echo "== done"
