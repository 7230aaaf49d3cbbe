//! Tests of password verification: right and wrong credentials, the cache, and the rate limit on guesses.

use super::*;

/// A clock that stands still.
fn start() -> impl Fn() -> Time + Send + 'static {
    || Time::START
}

/// bcrypt's lowest cost: a millisecond.
fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).expect("a valid cost")
}

fn basic(name_and_password: &str) -> Vec<u8> {
    format!("Basic {}", BASE64.encode(name_and_password)).into_bytes()
}

fn users() -> Passwords {
    Passwords::new(
        vec![("anna".into(), hash("pä:ss")), ("ö b".into(), hash("")), ("anna".into(), hash("other"))],
        Ipv6Prefix::default(),
    )
}

fn peer(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

async fn check(passwords: &Passwords, last: u8, field: &[u8]) -> Result<Arc<str>, LoginError> {
    passwords.check(peer(last), field, start()).await
}

fn secs(seconds: u64) -> Time {
    Time::START + Duration::from_secs(seconds)
}

#[tokio::test]
async fn who_knows_the_password_is_the_user() {
    let passwords = users();
    for _ in 0..2 {
        assert_eq!(check(&passwords, 1, &basic("anna:pä:ss")).await.as_deref(), Ok("anna"));
    }
    assert_eq!(check(&passwords, 1, &basic("ö b:")).await.as_deref(), Ok("ö b"));
    let spelled = [b"bAsIc \t".as_slice(), BASE64.encode("ö b:").trim_end_matches('=').as_bytes()].concat();
    assert_eq!(check(&passwords, 1, &spelled).await.as_deref(), Ok("ö b"));
}

#[tokio::test]
async fn letters_beyond_ascii_may_be_sent_in_utf_8_and_in_latin_1() {
    let passwords = users();
    let field = |bytes: &[u8]| format!("Basic {}", BASE64.encode(bytes)).into_bytes();
    for (sent, user) in [(&b"anna:p\xe4:ss"[..], "anna"), ("anna:pä:ss".as_bytes(), "anna"), (b"\xf6 b:", "ö b")] {
        assert_eq!(check(&passwords, 1, &field(sent)).await.as_deref(), Ok(user), "{}", sent.escape_ascii());
    }
    assert_eq!(check(&passwords, 1, &field(b"anna:p\xe5:ss")).await, Err(LoginError::InvalidCredentials));
}

#[tokio::test]
async fn anything_else_is_nobody() {
    let passwords = users();
    let wrong = [
        basic("anna:wrong"),
        basic("anna:other"),
        basic("anna:"),
        basic("nobody:pä:ss"),
        basic(":"),
        basic("anna"),
        b"Basic".to_vec(),
        b"Basic ".to_vec(),
        b"Basic !!!!".to_vec(),
        b"Bearer abc".to_vec(),
        b"".to_vec(),
        [b"Basic ".to_vec(), vec![b'A'; 100_000]].concat(),
        b"Basic //79OmE=".to_vec(),
    ];
    for (index, field) in (0..).zip(wrong) {
        assert_eq!(
            check(&passwords, index, &field).await,
            Err(LoginError::InvalidCredentials),
            "{}",
            field.escape_ascii()
        );
    }
    assert_eq!(
        check(&Passwords::new(Vec::new(), Ipv6Prefix::default()), 1, &basic("anna:x")).await,
        Err(LoginError::InvalidCredentials)
    );
    let broken = Passwords::new(vec![("anna".into(), "plain".into())], Ipv6Prefix::default());
    assert_eq!(check(&broken, 1, &basic("anna:plain")).await, Err(LoginError::InvalidCredentials));
}

#[tokio::test]
async fn what_was_right_once_is_known_again_without_a_look() {
    let passwords = users();
    let field = basic("anna:pä:ss");
    assert!(check(&passwords, 1, &field).await.is_ok());
    passwords.in_progress.close();
    assert!(check(&passwords, 2, &field).await.is_ok());
    assert_eq!(check(&passwords, 2, &basic("ö b:")).await, Err(LoginError::Overloaded));
}

#[tokio::test]
async fn right_credentials_in_another_spelling_are_known_again_without_a_look() {
    let long = "x".repeat(80);
    let users = vec![("anna".into(), hash("a")), ("bo".into(), hash(&long))];
    let passwords = Passwords::new(users, Ipv6Prefix::default());
    for right in [basic("anna:a"), basic(&format!("bo:{long}"))] {
        assert!(check(&passwords, 1, &right).await.is_ok());
    }
    passwords.in_progress.close();
    let encoded = BASE64.encode("anna:a");
    for spelt in
        [format!("bAsIc {encoded}"), format!("Basic \t  {encoded} "), format!("Basic {}", encoded.replace('=', ""))]
    {
        assert_eq!(check(&passwords, 1, spelt.as_bytes()).await.as_deref(), Ok("anna"), "{spelt}");
    }
    // bcrypt repeats a password and the NUL behind it until it has 72 bytes, and looks at no more.
    for same in ["a\0a", "a\0a\0a"] {
        assert!(bcrypt::verify(same, &hash("a")).expect("a valid hash"), "{}", same.escape_debug());
        assert_eq!(check(&passwords, 1, &basic(&format!("anna:{same}"))).await.as_deref(), Ok("anna"));
    }
    for same in [&long[..72], &format!("{long}y")] {
        assert_eq!(check(&passwords, 1, &basic(&format!("bo:{same}"))).await.as_deref(), Ok("bo"));
    }
    for other in ["anna:a\0b", "anna:", "anna:aa", "bo:a", "ann:a:a"] {
        assert_eq!(check(&passwords, 1, &basic(other)).await, Err(LoginError::Overloaded), "{other}");
    }
}

#[tokio::test]
async fn a_fleet_that_starts_is_let_in_by_few_looks() {
    let passwords = Arc::new(users());
    let all: Vec<_> = (0..200)
        .map(|_| {
            let passwords = Arc::clone(&passwords);
            tokio::spawn(async move { check(&passwords, 1, &basic("anna:pä:ss")).await.is_ok() })
        })
        .collect();
    for one in all {
        assert!(one.await.expect("no panic"));
    }
    assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
    assert!(passwords.cache.failures().by_addr.is_empty());
}

#[tokio::test]
async fn guesses_from_one_address_are_soon_refused_unseen() {
    let passwords = users();
    for guess in 0..MAX_FAILURES {
        assert_eq!(check(&passwords, 1, &basic(&format!("anna:{guess}"))).await, Err(LoginError::InvalidCredentials));
    }
    assert!(matches!(check(&passwords, 1, &basic("anna:next")).await, Err(LoginError::TooManyFailures { .. })));
    assert!(matches!(check(&passwords, 1, &basic("anna:pä:ss")).await, Err(LoginError::TooManyFailures { .. })));
    assert!(check(&passwords, 2, &basic("anna:pä:ss")).await.is_ok(), "another address");
    assert!(check(&passwords, 1, &basic("anna:pä:ss")).await.is_ok(), "known to be right by now");
}

#[tokio::test]
async fn the_same_wrong_password_again_is_no_new_guess() {
    let passwords = users();
    for _ in 0..50 {
        assert_eq!(check(&passwords, 1, &basic("anna:old")).await, Err(LoginError::InvalidCredentials));
    }
    assert!(check(&passwords, 1, &basic("anna:pä:ss")).await.is_ok());
}

#[test]
fn a_caller_that_hangs_up_does_not_undo_its_guess() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let passwords = users();
        let field = basic("anna:guess");
        // No password is verified before this is sent.
        let (look, may_look) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || may_look.recv().unwrap());
        let mut check = Box::pin(check(&passwords, 1, &field));
        assert!(futures_poll(&mut check).await.is_none(), "it is being looked at");
        drop(check);
        // All slots are free again only after the verification.
        let all = u32::try_from(passwords.in_progress.available_permits() + 1).expect("a few");
        look.send(()).unwrap();
        busy.await.unwrap();
        let free = passwords.in_progress.acquire_many(all).await;
        assert!(free.is_ok());
        assert_eq!(passwords.cache.failures().by_addr.len(), 1);
    });
}

async fn futures_poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn wrong_passwords_are_forgotten_after_a_minute() {
    let (mut wrong, place) = (Failures::default(), peer(1).into());
    for second in 0..5 {
        assert_eq!(wrong.check(place, CredHash(second, 0), secs(second)), Ok(()));
        wrong.add(place, CredHash(second, 0), secs(second));
    }
    let late = LoginError::TooManyFailures { retry_after: Duration::from_secs(50) };
    assert_eq!(wrong.check(place, CredHash(9, 9), secs(10)), Err(late));
    assert_eq!(wrong.check(place, CredHash(9, 9), secs(60)), Ok(()));
    assert_eq!(wrong.check(place, CredHash(0, 0), secs(60)), Ok(()), "nor is it known any more");
    assert_eq!(wrong.check(place, CredHash(1, 0), secs(60)), Err(LoginError::InvalidCredentials));
}

#[test]
fn the_table_of_addresses_is_bounded() {
    let mut wrong = Failures::default();
    for number in 0..3 * MAX_ADDRESSES as u32 {
        wrong.add(IpAddr::from(number.to_be_bytes()).into(), CredHash(0, 0), secs(0));
        assert_eq!(wrong.by_addr.len(), MAX_ADDRESSES.min(number as usize + 1), "one is forgotten, not all");
    }
}

#[tokio::test]
async fn guesses_from_all_addresses_of_an_ipv6_network_are_one_guessers() {
    for (prefix, other) in [(64, "2001:db8:0:1::1"), (128, "2001:db8:0:1::1"), (48, "2001:db8:1::1")] {
        let passwords = Passwords::new(vec![("anna".into(), hash("pw"))], Ipv6Prefix(prefix));
        let from = async |address: &str, guess: &str| {
            let field = basic(&format!("anna:{guess}"));
            passwords.check(address.parse().expect("an address"), &field, start()).await
        };
        for guess in 0..MAX_FAILURES {
            let refused = from(&format!("2001:db8::{guess}"), &guess.to_string()).await;
            assert_eq!(refused, Err(LoginError::InvalidCredentials));
        }
        assert!(matches!(from("2001:db8::ffff", "pw").await, Err(LoginError::TooManyFailures { .. })), "/{prefix}");
        assert!(from(other, "pw").await.is_ok(), "/{prefix}");
    }
}

#[test]
fn only_so_many_may_wait() {
    let count = AtomicUsize::new(MAX_WAITING - 1);
    let last = QueuedVerification::begin(&count);
    assert!(last.is_some() && QueuedVerification::begin(&count).is_none());
    drop(last);
    assert_eq!(count.load(Ordering::Relaxed), MAX_WAITING - 1);
}
