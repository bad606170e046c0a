//! Samples become minutes, minutes become files, files become longer steps.

use super::*;
use std::fs;

const BEGIN: i64 = 1_700_006_400; // a multiple of six hours

fn storage() -> Subject {
    (Kind::Storage, "local".to_owned())
}

fn values(rows: &[Row]) -> Vec<(i64, f64)> {
    rows.iter().filter(|row| !row.values[1].is_nan()).map(|row| (row.time - BEGIN, row.values[1])).collect()
}

#[test]
fn counters_become_rates_and_gauges_means() {
    let mut minute = Minute::new(Kind::Guest);
    for (second, mem, netin) in [(0, 10.0, 1000.0), (10, 20.0, 2000.0), (20, 30.0, 500.0), (30, 40.0, 1500.0)] {
        minute.add(BEGIN + second, &vec![("mem", mem), ("netin", netin), ("unheard-of", 1.0)]);
    }
    assert!(minute.take_finished(BEGIN + 59).is_empty());
    let rows = minute.take_finished(BEGIN + 60);
    let value = |name: &str| rows[0].values[Kind::Guest.names().iter().position(|known| *known == name).unwrap()];
    assert_eq!((rows.len(), rows[0].time), (1, BEGIN));
    // A counter that starts again is unknown for that moment.
    assert_eq!((value("mem"), value("netin")), (25.0, 100.0));
    assert!(value("cpu").is_nan());
}

#[test]
fn hours_of_minutes_are_read_back_and_consolidated() {
    let directory = tempfile::tempdir().unwrap();
    let history = History {
        directory: directory.path().to_owned(),
        memory: Mutex::new(Memory { series: BTreeMap::new(), flushed: Instant::now() }),
    };
    let subjects = BTreeSet::from([storage()]);
    for minute in 0..7 * 60 {
        let sample: Sample = vec![("total", 100.0), ("used", minute as f64)];
        history.add(BEGIN + minute * 60, vec![(storage(), sample)]);
        // Written at odd moments, so that steps are completed by a later write.
        if minute % 47 == 0 {
            history.flush(BEGIN + minute * 60 + 1, Some(&subjects));
        }
    }
    let now = BEGIN + 7 * 3600;
    history.flush(now, Some(&subjects));
    let archive = Archive::existing(directory.path(), &storage()).unwrap().unwrap();
    let read =
        |step: i64, count: i64, how| values(&archive.read((0..count).map(|at| BEGIN + at * step), step, how).unwrap());
    assert_eq!(read(60, 3, Consolidation::Average), [(0, 0.0), (60, 1.0), (120, 2.0)]);
    assert_eq!(read(60, 1000, Consolidation::Max).len(), 420);
    assert_eq!(read(1800, 20, Consolidation::Average)[..2], [(0, 14.5), (1800, 44.5)]);
    assert_eq!(read(1800, 20, Consolidation::Max)[..2], [(0, 29.0), (1800, 59.0)]);
    assert_eq!(read(6 * 3600, 2, Consolidation::Max), [(0, 359.0)]);
    assert_eq!(read(6 * 3600, 2, Consolidation::Average), [(0, 179.5)]);
    // A day later the ring holds other minutes.
    let later = archive.read((0..3).map(|at| BEGIN + 86400 + at * 60), 60, Consolidation::Average).unwrap();
    assert!(values(&later).is_empty());
    // What is gone is forgotten.
    history.flush(now, Some(&BTreeSet::new()));
    let path = directory.path().join("storage/local");
    assert!(path.exists(), "it may only be out of sight");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 86400);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    history.flush(now, None);
    assert!(path.exists());
    history.flush(now, Some(&BTreeSet::new()));
    assert!(Archive::existing(directory.path(), &storage()).unwrap().is_none());
}

#[test]
fn a_damaged_file_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("storage")).unwrap();
    fs::write(directory.path().join("storage/local"), "rubbish that is no history").unwrap();
    assert!(Archive::existing(directory.path(), &storage()).unwrap().is_none());
    let archive = Archive::open(directory.path(), &storage()).unwrap();
    archive.write(&[Row { time: BEGIN, values: vec![1.0, 2.0] }], BEGIN + 60).unwrap();
    let again = Archive::existing(directory.path(), &storage()).unwrap().unwrap();
    assert_eq!(values(&again.read([BEGIN].into_iter(), 60, Consolidation::Average).unwrap()), [(0, 2.0)]);
}
