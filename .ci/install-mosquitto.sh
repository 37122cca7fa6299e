#!/bin/sh
# Installs mosquitto, the MQTT broker that the tests of the bridges start and stop.
# Best effort: where apt cannot be used, the reason is printed, the exit status is 0, and the MQTT tests skip.
set -u
. "$(dirname "$0")/apt.sh"

skip() {
    echo "mosquitto not installed: $1; the MQTT tests will skip" >&2
    exit 0
}

if command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ]; then
    echo "mosquitto already installed"
    exit 0
fi

apt_ready || skip "$apt_problem"
# The package starts a broker as soon as it is installed; this policy forbids that, so the port stays free.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null && $sudo chmod 755 "$policy"
    trap '$sudo rm -f "$policy"' EXIT
fi
apt_install mosquitto || skip "$apt_problem"
echo "mosquitto installed"
