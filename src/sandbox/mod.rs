//! Three small MQTT nodes in the process, joined or with broken routing between them: for `remora demo`, and the fakes of
//! the tests. No broker for production.
