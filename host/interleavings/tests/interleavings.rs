//! Flights, leases, purges and the words between nodes in every order that the checker comes upon. A failing order is printed
//! and can be played again: `shuttle::replay`.

use std::sync::Arc;

use larder_interleavings::cache::generations::{Mode, Scope};
use larder_interleavings::sync::let_times_run_out;
use larder_interleavings::world::World;
use shuttle::future::{JoinHandle, block_on, spawn};

/// How many orders are tried, of two kinds: any, and those with few switches at bad moments.
const ORDERS: usize = 1500;
const SWITCHES: usize = 4;

/// Plays one scene in many orders; times run out at any moment, or never.
fn play(times_run_out: bool, scene: impl Fn() + Send + Sync + Clone + 'static) {
    let scene = move || {
        let_times_run_out(times_run_out);
        scene();
    };
    shuttle::check_random(scene.clone(), ORDERS);
    shuttle::check_pct(scene, ORDERS, SWITCHES);
}

fn asking(world: &Arc<World>, node: usize) -> JoinHandle<Option<usize>> {
    let world = Arc::clone(world);
    spawn(async move { world.get(node).await })
}

fn purging(world: &Arc<World>, node: usize, (scope, mode): (Scope, Mode)) -> JoinHandle<()> {
    let world = Arc::clone(world);
    spawn(async move { world.change_and_purge(node, &scope, mode).await })
}

/// What they were answered, all of them.
async fn answers(asked: Vec<JoinHandle<Option<usize>>>) -> Vec<Option<usize>> {
    let mut all = Vec::new();
    for asked in asked {
        all.push(asked.await.expect("it ends"));
    }
    all
}

/// Asks every node once more, when all have heard everything, and ends.
async fn at_last(world: &Arc<World>, ears: Vec<JoinHandle<()>>) -> Vec<Option<usize>> {
    world.quiet().await;
    let asked = (0..world.nodes.len()).map(|node| asking(world, node));
    let answers = answers(asked.collect()).await;
    world.end();
    for ear in ears {
        ear.await.expect("it ends");
    }
    answers
}

#[test]
fn law_3_clients_of_one_node_are_one_load() {
    play(false, || {
        block_on(async {
            let world = World::new(0);
            let asked = (0..4).map(|_| asking(&world, 0)).collect();
            assert_eq!(answers(asked).await, [Some(1); 4]);
            assert_eq!(world.source.loads(), 1);
        });
    });
}

#[test]
fn law_3_clients_of_three_nodes_are_one_load_and_nobody_waits_for_a_time_to_run_out() {
    play(false, || {
        block_on(async {
            let world = World::new(3);
            let ears = world.listen();
            let asked = (0..5).map(|client| asking(&world, client % 3)).collect();
            assert_eq!(answers(asked).await, [Some(1); 5]);
            assert_eq!(at_last(&world, ears).await, [Some(1); 3]);
            assert_eq!(world.source.loads(), 1);
            assert!(world.is_free());
        });
    });
}

#[test]
fn law_3_a_failing_load_gives_its_lease_to_who_waits_and_strands_nobody() {
    play(false, || {
        block_on(async {
            let world = World::new(3);
            world.source.fail(1);
            let ears = world.listen();
            let asked = (0..3).map(|node| asking(&world, node)).collect();
            let answers = answers(asked).await;
            // Who joined the flight that failed fails with it.
            assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 1);
            assert_eq!(at_last(&world, ears).await, [Some(1); 3]);
        });
    });
}

/// The ways to purge what is asked for.
fn ways(world: &World) -> [(Scope, Mode); 4] {
    [
        (world.resource(), Mode::Delete),
        (world.resource(), Mode::Expire),
        (Scope::All, Mode::Delete),
        (Scope::Route("/data/{key}".into()), Mode::Expire),
    ]
}

#[test]
fn law_4_no_purge_is_overtaken_on_one_node() {
    for way in 0..4 {
        play(false, move || {
            block_on(async {
                let world = World::new(0);
                let first = vec![asking(&world, 0), asking(&world, 0)];
                let purged = purging(&world, 0, ways(&world)[way].clone());
                let second = vec![asking(&world, 0)];
                answers(first).await;
                answers(second).await;
                purged.await.expect("it ends");
                assert_eq!(asking(&world, 0).await.expect("it ends"), Some(2));
            });
        });
    }
}

#[test]
fn law_4_no_purge_is_overtaken_on_any_node() {
    for way in 0..4 {
        for times_run_out in [false, true] {
            play(times_run_out, move || {
                block_on(async {
                    let world = World::new(2);
                    let ears = world.listen();
                    let first = vec![asking(&world, 0), asking(&world, 1)];
                    let purged = purging(&world, 0, ways(&world)[way].clone());
                    let second = vec![asking(&world, 0), asking(&world, 1)];
                    answers(first).await;
                    answers(second).await;
                    purged.await.expect("it ends");
                    // On the node that purged at once (see `World::get`), on the other when it has heard.
                    answers(vec![asking(&world, 0)]).await;
                    assert_eq!(at_last(&world, ears).await, [Some(2); 2]);
                });
            });
        }
    }
}

#[test]
fn law_4_what_is_found_alive_while_it_is_purged_is_looked_at_again() {
    for way in 0..4 {
        play(false, move || {
            block_on(async {
                let world = World::new(2);
                let ears = world.listen();
                let first = vec![asking(&world, 0), asking(&world, 1)];
                answers(first).await;
                world.purge_another().await;
                let purged = purging(&world, 0, ways(&world)[way].clone());
                let hits = vec![asking(&world, 0), asking(&world, 1), asking(&world, 1)];
                answers(hits).await;
                purged.await.expect("it ends");
                assert_eq!(at_last(&world, ears).await, [Some(2); 2]);
            });
        });
    }
}

fn writing(world: &Arc<World>, node: usize, alone: bool) -> JoinHandle<()> {
    let world = Arc::clone(world);
    spawn(async move { world.write(node, alone).await })
}

#[test]
fn law_4_no_write_is_overtaken_on_any_node() {
    for sharing in [0, 2] {
        play(false, move || {
            block_on(async {
                let world = World::new(sharing);
                let ears = world.listen();
                let last = world.nodes.len() - 1;
                let first = vec![asking(&world, 0), asking(&world, last)];
                let written = writing(&world, 0, true);
                let second = vec![asking(&world, 0), asking(&world, last)];
                answers(first).await;
                answers(second).await;
                written.await.expect("it ends");
                let found = at_last(&world, ears).await;
                assert!(found.iter().all(|found| *found == Some(2)), "{found:?}");
            });
        });
    }
}

#[test]
fn law_4_of_two_writes_at_once_the_last_word_of_the_source_is_what_is_read() {
    for sharing in [0, 2] {
        play(false, move || {
            block_on(async {
                let world = World::new(sharing);
                let ears = world.listen();
                let last = world.nodes.len() - 1;
                let asked = vec![asking(&world, 0), asking(&world, last)];
                let (one, other) = (writing(&world, 0, false), writing(&world, last, false));
                answers(asked).await;
                one.await.expect("it ends");
                other.await.expect("it ends");
                let found = at_last(&world, ears).await;
                let says = Some(world.source.says());
                let same = found.iter().all(|found| *found == says);
                assert!(same, "{found:?}, not {says:?}");
            });
        });
    }
}

#[test]
fn law_4_what_is_accepted_is_read_before_it_is_made_and_after() {
    for (sharing, known) in [(0, true), (0, false), (2, true), (2, false)] {
        play(false, move || {
            block_on(async {
                let world = World::new(sharing);
                let ears = world.listen();
                let last = world.nodes.len() - 1;
                let first = vec![asking(&world, 0), asking(&world, last)];
                let accepted = spawn({
                    let world = Arc::clone(&world);
                    async move { world.accept_and_make(0, known).await }
                });
                let second = vec![asking(&world, 0), asking(&world, last)];
                answers(first).await;
                answers(second).await;
                accepted.await.expect("it ends");
                let found = at_last(&world, ears).await;
                assert!(found.iter().all(|found| *found == Some(2)), "{found:?}");
            });
        });
    }
}

#[test]
fn law_4_an_evicted_generation_brings_nothing_back() {
    play(true, || {
        block_on(async {
            let world = World::new(2);
            let ears = world.listen();
            let first = vec![asking(&world, 0), asking(&world, 1)];
            let evicting = spawn({
                let world = Arc::clone(&world);
                async move { world.evict_generation() }
            });
            let purged = purging(&world, 0, (world.resource(), Mode::Delete));
            answers(first).await;
            evicting.await.expect("it ends");
            purged.await.expect("it ends");
            assert_eq!(at_last(&world, ears).await, [Some(2); 2]);
        });
    });
}
