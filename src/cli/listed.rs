//! The nodes that the file of `[discovery]` lists now: for commands that say what the cluster would be.

use remora::config::{Config, ListedNodes, Problems};

/// Adds them to those of the configuration, if it has such a file.
///
/// # Errors
/// What is wrong with the file. A balancer would go on with the nodes that it has.
pub(super) fn add(config: &mut Config) -> Result<(), Problems> {
    let discovery = config.control.discovery.as_ref();
    let Some(file) = discovery.and_then(|discovery| discovery.source.file.clone()) else {
        return Ok(());
    };
    for node in ListedNodes::of(config).load(&file)? {
        // What the configuration says of a node comes first.
        if !config.nodes.iter().any(|known| known.name == node.name) {
            config.nodes.push(node);
        }
    }
    Ok(())
}
