# 0: the package goes; 1: it is replaced by a newer one.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl disable --now canasta-controller.service
    else
        systemctl disable canasta-controller.service >/dev/null 2>&1 || :
    fi
fi
