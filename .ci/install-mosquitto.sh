#!/bin/sh
# Installs mosquitto, the MQTT broker that the tests of the bridges start and stop.
# Best effort: where apt cannot be used, the reason is printed, the exit status is 0, and the MQTT tests skip.
set -u

skip() {
    echo "mosquitto not installed: $1; the MQTT tests will skip" >&2
    exit 0
}

if command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ]; then
    echo "mosquitto already installed"
    exit 0
fi

command -v apt-get >/dev/null 2>&1 || skip "apt-get is not on this system"
if [ "$(id -u)" -eq 0 ]; then
    sudo=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo="sudo -n"
else
    skip "neither root nor password-less sudo"
fi

export DEBIAN_FRONTEND=noninteractive
# The package starts a broker of its own at once; a policy that refuses leaves the port alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null && $sudo chmod 755 "$policy"
    trap '$sudo rm -f "$policy"' EXIT
fi
$sudo apt-get -o DPkg::Lock::Timeout=180 update -q || skip "apt-get update failed"
$sudo apt-get -o DPkg::Lock::Timeout=180 install -q -y --no-install-recommends mosquitto || skip "apt-get install failed"
echo "mosquitto installed"
