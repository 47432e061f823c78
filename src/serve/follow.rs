//! How names of machines that come and go change who comes in, and where connections go.

use super::Loop;
use super::naming::{Naming, Renamed};
use crate::clock::Moment;
use crate::error::{Error, Result};

impl Loop {
    /// Follows the names from now on.
    ///
    /// Errors: nothing can be watched.
    pub(crate) fn follow(&mut self, naming: Naming) -> Result<()> {
        (naming.watch(self.worker.epoll())).map_err(Error::system("watch names of machines"))?;
        let naming = self.naming.insert(naming);
        // Some may have changed since the targets were looked up.
        let renamed = naming.look_up(self.worker.dialer(), Moment::now());
        self.rename(renamed);
        Ok(())
    }

    /// Takes over what has changed, if it is time to look.
    pub(super) fn renew_names(&mut self, now: Moment) {
        let (epoll, dialer) = (self.worker.epoll(), self.worker.dialer());
        let naming = self.naming.as_mut();
        if let Some(renamed) = naming.and_then(|naming| naming.renew(epoll, dialer, now)) {
            self.rename(renamed);
        }
    }

    /// Takes over what has changed by now, before somebody is judged by it.
    pub(super) fn renew_names_at_once(&mut self, now: Moment) {
        let (epoll, dialer) = (self.worker.epoll(), self.worker.dialer());
        let naming = self.naming.as_mut();
        let renamed = naming.and_then(|naming| naming.renew_at_once(epoll, dialer, now));
        if let Some(renamed) = renamed {
            self.rename(renamed);
        }
    }

    /// Goes on with those whose machine has answered: what was written before it did so is read by then.
    pub(super) fn confirm_names(&mut self, now: Moment) {
        if self.worker.has_reached() {
            self.renew_names_at_once(now);
            self.worker.confirm(now);
        }
    }

    fn rename(&mut self, renamed: Renamed) {
        if let Some(gateway) = &self.worker.dialer().gateway {
            gateway.rules.look_up_again();
        }
        if let Some(allowed) = renamed.allowed {
            self.gate.allowed = allowed;
        }
        if let Some(dialer) = renamed.dialer {
            self.worker.set_dialer(dialer);
        }
    }
}
