if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # A newer package was installed: run what it brought.
    if [ "$1" -ge 1 ]; then
        systemctl try-restart canasta-agent.service
    fi
fi
