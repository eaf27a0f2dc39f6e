if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
# 1: the first install; 2: an upgrade, which leaves alone what the administrator has disabled or stopped.
if [ "$1" -eq 1 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl enable --now canasta-agent.service
    else
        systemctl enable canasta-agent.service >/dev/null 2>&1 || :
    fi
fi
