# Sourced by the install scripts: `apt_install PACKAGE…` installs Debian packages as root or by password-less sudo.
# Where that is impossible it returns 1 and leaves the reason in $apt_problem.
sudo=""

apt_ready() {
    apt_problem=""
    if ! command -v apt-get >/dev/null 2>&1; then
        apt_problem="apt-get is not on this system"
    elif [ "$(id -u)" -eq 0 ]; then
        sudo=""
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        sudo="sudo -n"
    else
        apt_problem="neither root nor password-less sudo"
    fi
    [ -z "$apt_problem" ]
}

apt_install() {
    apt_ready || return 1
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get -o DPkg::Lock::Timeout=300 update -q || { apt_problem="apt-get update failed"; return 1; }
    $sudo apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "$@" ||
        { apt_problem="apt-get install failed"; return 1; }
}
