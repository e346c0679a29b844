#!/bin/sh -eu
# What the worker and whoever handles dead letters may do, and nothing else. Written by `faust -A app acls`.
#   BOOTSTRAP=kafka:9092 ADMIN=admin.properties sh deploy/acls/famulus.sh
# Repeating it changes nothing. The idempotent producer needs nothing beside Write (Kafka 2.8 and later), and there are
# no transactions, so no right to a transactional id. Take away Write of the topics that no handler publishes to, the
# topic of replies where no handler asks for any, and Create and Alter once the topics are there. A worker that replies
# to another group needs Write and Describe of that one's topic, GROUP.replies.
allow() { kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$ADMIN" --add --allow-principal "$@"; }

allow User:famulus --group famulus --operation Read --operation Describe
allow User:famulus --topic famulus.admin --operation Create --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic famulus.admin.audit --operation Create --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic famulus.replies --operation Create --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic order-events --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic order-events.dead-letter --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic famulus-order-events-state --operation Create --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic order-events.famulus.redrive --operation Create --operation Alter --operation Read --operation Describe --operation DescribeConfigs
allow User:famulus --topic stock-events --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic stock-events.dead-letter --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic famulus-stock-events-state --operation Create --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus --topic stock-events.famulus.redrive --operation Create --operation Alter --operation Read --operation Describe --operation DescribeConfigs
allow User:famulus-operator --group famulus --operation Describe
allow User:famulus-operator --topic famulus.admin --operation Create --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic famulus.admin.audit --operation Create --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic order-events --operation Read --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic order-events.dead-letter --operation Read --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic famulus-order-events-state --operation Read --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic order-events.dead-letter.audit --operation Create --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic order-events.famulus.redrive --operation Create --operation Alter --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic stock-events --operation Read --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic stock-events.dead-letter --operation Read --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic famulus-stock-events-state --operation Read --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic stock-events.dead-letter.audit --operation Create --operation Read --operation Write --operation Describe --operation DescribeConfigs
allow User:famulus-operator --topic stock-events.famulus.redrive --operation Create --operation Alter --operation Read --operation Write --operation Describe --operation DescribeConfigs
