//! Redaction of request targets for logs: removes userinfo, query values and fragments.

/// Longest target that a line shows, in bytes; longer ones are cut.
pub(super) const MAX_TARGET: usize = 4096;

/// Removes from a target the parts that may be secret: userinfo, query values, the fragment. A
/// query item without a name may be one too, and goes.
pub(super) fn without_secrets(target: &str) -> String {
    let target = target.split('#').next().unwrap_or(target);
    let (place, query) = target.split_once('?').map_or((target, None), |(place, query)| (place, Some(query)));
    let mut shown = String::with_capacity(target.len().min(MAX_TARGET) + 8);
    match userinfo(place) {
        Some(secret) => {
            shown.push_str(&place[..secret.start]);
            shown.push_str(&place[secret.end..]);
        }
        None => shown.push_str(place),
    }
    for (index, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) => {
                shown.push_str(name);
                shown.push_str("=…");
            }
            None if pair.is_empty() => {}
            None => shown.push('…'),
        }
        if shown.len() > MAX_TARGET {
            break;
        }
    }
    if shown.len() > MAX_TARGET {
        let end = (0..=MAX_TARGET).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

/// Byte range of the userinfo in a target that names a host, its `@` included. Such a target is
/// refused, but its line is written.
fn userinfo(place: &str) -> Option<std::ops::Range<usize>> {
    let is_slash = |char| matches!(char, '/' | '\\');
    let start = match place.find("://") {
        _ if place.starts_with('/') => return None,
        Some(at) => place.len() - place[at + 3..].trim_start_matches(is_slash).len(),
        None => 0,
    };
    let authority = &place[start..];
    let authority = &authority[..authority.find('/').unwrap_or(authority.len())];
    authority.rfind('@').map(|at| start..start + at + 1)
}
