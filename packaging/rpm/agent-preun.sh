# 0: the package goes; 1: it is replaced by a newer one.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now canasta-agent.service
fi
